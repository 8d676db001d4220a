# The worker. Built from the root of the repository.
#
# TORCH_INDEX_URL decides for what hardware: PyTorch's index of CPU wheels (the default, 200 MB),
# or empty for the usual index, whose wheels for Linux carry CUDA (some gigabytes).
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheel .

FROM python:${PYTHON_VERSION}-slim
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 10001 --create-home defectscope \
    && install --directory --owner=defectscope /var/cache/defectscope
# The libraries first: they change seldom, and their layer is the large one.
COPY pyproject.toml deploy/docker/requirements.py /build/
# torch and torchvision from one index: their compiled parts must match.
RUN python /build/requirements.py /build/pyproject.toml worker > /build/requirements.txt \
    && grep '^torch' /build/requirements.txt > /build/torch.txt \
    && pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --requirement /build/torch.txt \
    && pip install --requirement /build/requirements.txt
COPY --from=wheel /wheel /wheel
RUN pip install --no-deps /wheel/*.whl
USER defectscope
WORKDIR /home/defectscope
CMD ["python", "-m", "worker"]
