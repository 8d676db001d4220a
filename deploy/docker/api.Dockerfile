# The API and `defectscope migrate`: no torch, no OpenCV. Built from the root of the repository.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheel .

FROM python:${PYTHON_VERSION}-slim
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --create-home defectscope
# The libraries first: they change seldom, and their layer is the large one.
COPY pyproject.toml deploy/docker/requirements.py /build/
RUN python /build/requirements.py /build/pyproject.toml api > /build/requirements.txt \
    && pip install --requirement /build/requirements.txt
COPY --from=wheel /wheel /wheel
RUN pip install --no-deps /wheel/*.whl
USER defectscope
WORKDIR /home/defectscope
EXPOSE 8000
CMD ["python", "-m", "api.main"]
