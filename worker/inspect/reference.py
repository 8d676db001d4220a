"""Photos of the product with what the reference engine says of them, kept in the bundle.

A worker judges them with each engine that its hardware offers, and takes the fastest one that
says the same.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from shared.errors import DamagedBundle
from worker.inspect.backbone import save_safetensors

REFERENCE = "reference.safetensors"

_PHOTO = "photo-"


@dataclass(frozen=True)
class Reference:
    pixels: NDArray[np.uint8]  # (N, 256, 256, 3) RGB, as the models see them
    defect_probabilities: NDArray[np.float32]  # (N,)
    anomaly_scores: NDArray[np.float32]  # (N,), standard deviations
    domain_distances: NDArray[np.float32]  # (N,)


def write_reference(reference: Reference, file: Path) -> None:
    """As safetensors; the photos as PNG, which loses nothing and takes a third of the bytes."""
    tensors = {
        f"{_PHOTO}{number:03}": torch.frombuffer(_to_png(pixels), dtype=torch.uint8)
        for number, pixels in enumerate(reference.pixels)
    }
    for name in ("defect_probabilities", "anomaly_scores", "domain_distances"):
        tensors[name] = torch.from_numpy(getattr(reference, name).astype(np.float32))
    save_safetensors(tensors, file)


def read_reference(file: Path) -> Reference:
    """Raises DamagedBundle if the file is none of `write_reference`."""
    try:
        tensors = load_file(file)
        pngs = [tensors[name] for name in sorted(tensors) if name.startswith(_PHOTO)]
        return Reference(
            np.stack([_from_png(png.numpy()) for png in pngs]),
            tensors["defect_probabilities"].numpy(),
            tensors["anomaly_scores"].numpy(),
            tensors["domain_distances"].numpy(),
        )
    except (OSError, SafetensorError, KeyError, ValueError, cv2.error) as error:
        raise DamagedBundle(f"{file} does not hold reference photos: {error}") from error


def _to_png(pixels: NDArray[np.uint8]) -> bytearray:
    is_encoded, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not is_encoded:
        raise RuntimeError("OpenCV could not encode a PNG")
    return bytearray(png.tobytes())


def _from_png(png: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(png, cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise ValueError("a photo cannot be decoded")
    return np.asarray(pixels, np.uint8)
