"""The networks in plain PyTorch, fp32: the reference that every other engine is held against."""

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.autoencoder import second_opinion
from worker.inspect.backbone import load_backbone
from worker.inspect.bundle import Parts, ProductModel
from worker.inspect.engines.protocol import Anomalies
from worker.inspect.inputs import to_classifier_input

_PHOTOS_PER_PASS = 32
"""Bounds the memory of one pass; larger batches run in several."""


class TorchEngine:
    """DenseNet-121 and autoencoders in eager mode on the CPU."""

    name = "torch-cpu"
    device = torch.device("cpu")
    batch_size = 16

    def __init__(self, backbone_file: Path, *, sha256: str) -> None:
        self.backbone_sha256 = sha256
        self._backbone = load_backbone(backbone_file, sha256=sha256)
        for weight in self._backbone.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        # Torch takes all cores for one batch; two at once would only delay both.
        self._alone = threading.Lock()

    def parts_of(self, model: ProductModel) -> Parts:
        return model.parts

    @torch.inference_mode()
    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        with self._alone:
            maps = [
                self._backbone(_input(photos[first : first + _PHOTOS_PER_PASS]))
                for first in range(0, len(photos), _PHOTOS_PER_PASS)
            ]
        return torch.cat(maps).contiguous()  # (B, 1024, 8, 8)

    @torch.inference_mode()
    def anomalies(self, photos: NDArray[np.uint8], model: ProductModel) -> Anomalies:
        with self._alone:
            return Anomalies(
                *second_opinion(
                    torch.as_tensor(photos), model.parts.autoencoder, model.parts.good_residuals
                )
            )


def _input(photos: NDArray[np.uint8]) -> Tensor:
    return to_classifier_input(photos).contiguous(memory_format=torch.channels_last)
