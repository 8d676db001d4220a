"""A backbone's batch norms, calibrated on rendered pictures, and its file.

The mix is broad, because one backbone serves every product.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from worker.inspect.backbone import digest_of, save_backbone
from worker.inspect.inputs import to_classifier_input
from worker.inspect.preprocess import SIDE
from worker.train.progress import Progress, silent
from worker.train.render import LABELS, render_bottle
from worker.train.render_parts import render_parts

PICTURES = 256
BOTTLE_SHARE = 0.25
"""The rest are parts and materials of all sorts."""
_PASS = 64


def render_mix(seed: int, count: int, progress: Progress = silent) -> NDArray[np.uint8]:
    """`count` rendered pictures in random order: (N, 256, 256, 3) RGB."""
    rng = np.random.default_rng(seed)
    is_bottle = rng.permutation(count) < round(BOTTLE_SHARE * count)
    pictures: list[NDArray[np.uint8]] = []
    for number in range(count):
        if is_bottle[number]:
            label = LABELS[int(rng.integers(len(LABELS)))]
            pictures.append(render_bottle(rng, label, SIDE).image)
        else:
            pictures.append(render_parts(rng, SIDE))
        progress("rendering pictures", number + 1, count)
    return np.stack(pictures)


@torch.no_grad()
def calibrate_batch_norms(
    backbone: nn.Module, pictures: NDArray[np.uint8], progress: Progress = silent
) -> None:
    """Set every batch norm's mean and variance to those of the pictures.

    One pass in training mode: each layer sees what the calibrated layers before
    it give. The statistics are the plain average over the batches.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    backbone.train()
    for first in range(0, len(pictures), _PASS):
        backbone(to_classifier_input(pictures[first : first + _PASS]))
        progress("calibrating batch norms", min(first + _PASS, len(pictures)), len(pictures))
    backbone.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write_backbone(backbone: nn.Module, folder: Path, *, provenance: str) -> Path:
    """Save it as `backbone-<digest>.safetensors` and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    unnamed = folder / "backbone.safetensors"
    save_backbone(backbone.state_dict(), unnamed, provenance=provenance)
    digest = digest_of(unnamed).removeprefix("sha256:")
    return unnamed.replace(folder / f"backbone-{digest[:12]}.safetensors")
