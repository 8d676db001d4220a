"""The frozen backbone: DenseNet-121 up to `features.norm5`.

One backbone serves every product, so it is stored once, by its digest: the
convolutions as fp16, the batch norms (whose variances may be tiny) as fp32.
Training reads the same file that serving reads, so both see the same rounding.
"""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shared.errors import DamagedBundle
from worker.inspect.torchvision_import import densenet121

CHANNELS = 1024
CELLS = 8
"""Rows and columns of the feature maps for photos of 256 x 256."""


def build_backbone() -> nn.Sequential:
    """DenseNet-121's feature layers with random weights: photos in, maps after norm5 out.

    The maps (B, 1024, 8, 8) are taken before the ReLU that torchvision applies next.
    """
    features: nn.Sequential = densenet121(weights=None).features
    return features


def freeze(backbone: nn.Module) -> nn.Module:
    """Put the backbone into evaluation for good: no gradients, no moving batch norms."""
    return backbone.eval().requires_grad_(False)


def pool(maps: Tensor) -> Tensor:
    """The 1024-d fingerprint of each photo: ReLU, then the mean over all cells.

    maps (B, 1024, H, W), returns (B, 1024).
    """
    return torch.relu(maps).mean(dim=(2, 3))


def digest_of(file: Path) -> str:
    """SHA-256 of a file, as manifests write it."""
    with file.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def save_backbone(weights: Mapping[str, Tensor], file: Path, *, provenance: str) -> None:
    """Write the weights of `build_backbone()` as safetensors, whole or not at all."""
    stored = {
        name: (weight.half() if weight.ndim > 1 else weight.float()).contiguous()
        for name, weight in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    save_safetensors(stored, file, metadata={"provenance": provenance})


def save_safetensors(
    tensors: Mapping[str, Tensor], file: Path, *, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors under a temporary name, then rename: no reader sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    os.close(handle)
    try:
        save_file(dict(tensors), temporary, metadata=metadata)
        # mkstemp made it private; a bundle is read by other users.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_backbone(file: Path, *, sha256: str | None = None) -> nn.Module:
    """The frozen backbone with the weights of `file`, in fp32.

    Raises DamagedBundle naming the file if it is not of the digest `sha256` or
    does not hold exactly the weights of DenseNet-121's feature layers.
    """
    if sha256 is not None:
        verify(file, sha256)
    backbone = build_backbone()
    expected = {
        name: weight.shape
        for name, weight in backbone.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedBundle(f"{file} cannot be read as safetensors: {error}") from error
    if {name: weight.shape for name, weight in weights.items()} != expected:
        raise DamagedBundle(f"{file} does not hold the weights of DenseNet-121's feature layers")
    # Strict would ask for the counters of batch norms, which evaluation never reads.
    backbone.load_state_dict({n: w.float() for n, w in weights.items()}, strict=False)
    return freeze(backbone)


def verify(file: Path, sha256: str) -> None:
    """Raise DamagedBundle, naming the file, unless its content has this digest."""
    try:
        found = digest_of(file)
    except OSError as error:
        raise DamagedBundle(f"{file} cannot be read: {error.strerror}") from error
    if found != sha256:
        raise DamagedBundle(
            f"{file} is damaged: the manifest says {sha256}, the file has {found}; "
            "fetch or train the bundle again"
        )
