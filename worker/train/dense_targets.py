"""What each cell of a picture shows, as numbers that pretraining asks the feature maps for.

What was asked of defects alone leaves out what no rendered defect needs. A cell that can tell its
pixels up to brightness and contrast (He et al., CVPR 2022), and the energy of edges in its quarters
(Wei et al., CVPR 2022), has forgotten little.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

CELL = 32
"""Pixels that a cell of the last maps is wide."""
PIXELS = 16 * 16
"""Numbers that say a cell's normalised pixels."""
_COLOUR_SIDE = 4
_BARS = ((3.0, 1.4), (5.5, 2.4), (9.0, 3.6))
"""Wavelength and spread of the Gabor filters, in pixels."""
_ORIENTATIONS = 4
_ENERGY_SIDE = 4
_REACH = 7
MEASURES = 2 + 2 * _COLOUR_SIDE**2 + len(_BARS) * _ORIENTATIONS * _ENERGY_SIDE**2
"""Numbers that say its brightness, contrast, colours and edges."""

_LEAST_CONTRAST = 0.01
_LEAST_ENERGY = 1e-5


@dataclass(frozen=True)
class Targets:
    pixels: Tensor  # (B, PIXELS, h, w): mean 0 and variance 1 in each cell, unless it is even
    measures: Tensor  # (B, MEASURES, h, w): mean 0 and variance 1 over all cells of the batch


def dense_targets(pictures: NDArray[np.uint8]) -> Targets:
    """Of pictures (B, H, W, 3), whose sides are multiples of CELL."""
    colours = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    grey = colours.mean(dim=1, keepdim=True)
    pixels = _by_cell(F.avg_pool2d(grey, 2), CELL // 2)
    mean, contrast = pixels.mean(dim=1, keepdim=True), pixels.std(dim=1, keepdim=True)
    tints = torch.cat([colours[:, :1] - grey, colours[:, 2:] - grey], dim=1)
    bars = _bars()
    waves = F.conv2d(F.pad(grey, (_REACH,) * 4, mode="reflect"), bars).square()
    energy = F.avg_pool2d(waves[:, 0::2] + waves[:, 1::2], CELL // _ENERGY_SIDE)
    measures = torch.cat(
        [
            mean,
            torch.log(contrast + _LEAST_CONTRAST),
            _by_cell(F.avg_pool2d(tints, CELL // _COLOUR_SIDE), _COLOUR_SIDE),
            _by_cell(torch.log(energy + _LEAST_ENERGY), _ENERGY_SIDE),
        ],
        dim=1,
    )
    over_all = (0, 2, 3)
    away = measures - measures.mean(dim=over_all, keepdim=True)
    return Targets(
        (pixels - mean) / (contrast + _LEAST_CONTRAST),
        away / (measures.std(dim=over_all, keepdim=True) + 1e-4),
    )


def _by_cell(maps: Tensor, side: int) -> Tensor:
    """(B, C, h * side, w * side) to (B, C * side * side, h, w)."""
    return F.pixel_unshuffle(maps, side)


def _bars() -> Tensor:
    """(2 * 12, 1, 15, 15): waves and the same a quarter later, in turn."""
    grid = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32)
    ys, xs = torch.meshgrid(grid, grid, indexing="ij")
    bars: list[Tensor] = []
    for wavelength, spread in _BARS:
        window = torch.exp(-(xs.square() + ys.square()) / (2 * spread**2))
        for turn in range(_ORIENTATIONS):
            angle = turn * math.pi / _ORIENTATIONS
            phase = 2 * math.pi * (xs * math.cos(angle) + ys * math.sin(angle)) / wavelength
            for wave in (torch.cos(phase), torch.sin(phase)):
                bar = window * wave
                bar = bar - window * (bar.sum() / window.sum())
                bars.append(bar / bar.norm())
    return torch.stack(bars)[:, None]
