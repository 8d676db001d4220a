"""The backbone in plain PyTorch: the reference that every other engine is held against."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.backbone import digest_of, load_backbone
from worker.inspect.preprocess import to_classifier_input

_PHOTOS_PER_PASS = 32
"""Bounds the memory of one pass; larger batches run in several."""


class TorchEngine:
    """DenseNet-121 in fp32 on the GPU where there is one, else on the CPU."""

    def __init__(self, backbone_file: Path, *, sha256: str | None = None, device: str = "") -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        backbone = load_backbone(backbone_file, sha256=sha256).to(self._device)
        for weight in backbone.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        self._backbone = backbone
        self.backbone_sha256 = sha256 or digest_of(backbone_file)
        self.name = f"torch-{self._device.type}"

    @torch.inference_mode()
    def features(self, photos: NDArray[np.uint8]) -> Tensor:
        maps = [
            self._backbone(self._input(photos[first : first + _PHOTOS_PER_PASS])).float().cpu()
            for first in range(0, len(photos), _PHOTOS_PER_PASS)
        ]
        return torch.cat(maps).contiguous()  # (B, 1024, 8, 8)

    def _input(self, photos: NDArray[np.uint8]) -> Tensor:
        return to_classifier_input(photos).to(self._device, memory_format=torch.channels_last)
