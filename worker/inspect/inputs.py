"""From prepared photos to what the networks are fed: the one way for training and serving."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_classifier_input(rgb_batch: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Standardised as torchvision's ImageNet weights expect.

    rgb_batch (B, 256, 256, 3), 0 to 255, on any device.
    Returns (B, 3, 256, 256) float32 on the same device.
    """
    unit = to_autoencoder_input(rgb_batch)
    mean, std = _standard(unit.device)
    return unit.sub_(mean).div_(std)


@lru_cache
def _standard(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Made once: while a graph is captured, nothing may be copied to the GPU."""
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device)
        std = torch.tensor(IMAGENET_STD, device=device)
    return mean.view(1, 3, 1, 1), std.view(1, 3, 1, 1)


def to_autoencoder_input(rgb_batch: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Scaled to [0, 1].

    rgb_batch (B, 256, 256, 3), 0 to 255, on any device.
    Returns (B, 3, 256, 256) float32 on the same device, in memory of its own.
    """
    channels_first = torch.as_tensor(rgb_batch).permute(0, 3, 1, 2)  # (B, 3, 256, 256)
    return channels_first.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
