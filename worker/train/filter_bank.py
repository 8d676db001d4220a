"""The first layer that pretraining begins with: edges, bars, dots and colours.

Networks that are trained for weeks on photos all find such filters in their first layer (Krizhevsky
et al. 2012); one that is trained for minutes leaves it at the noise it began with.
"""

import math

import torch
from torch import Tensor

from worker.inspect.inputs import IMAGENET_STD

_SIDE = 7
_ORIENTATIONS = 8
_BARS = ((3.2, 1.3), (5.5, 1.9))
"""Wavelength and spread of the Gabor filters, in pixels."""
_GREY = torch.tensor(IMAGENET_STD)
"""What the networks are fed has been divided by it: this sums the colours as they were."""
_COLOURS = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
"""Red against green, yellow against blue."""


@torch.no_grad()
def set_first_filters(weights: Tensor) -> None:
    """Overwrite weights (64, 3, 7, 7), as strong on average as they were; two stay noise."""
    filters = first_filters()
    while len(filters) < len(weights):
        noise = _outer(_balanced(torch.randn(_SIDE, _SIDE)), torch.randn(3))
        filters = torch.cat([filters, noise[None]])
    weights.copy_(filters * weights.flatten(1).norm(dim=1).mean())


def first_filters() -> Tensor:
    """(62, 3, 7, 7), each of norm 1: 48 oriented bars and edges, 14 blobs and dots, light and dark,
    grey and coloured.
    """
    filters: list[Tensor] = []
    for wavelength, spread in _BARS:
        window = _window(spread)
        for turn in range(_ORIENTATIONS):
            angle = turn * math.pi / _ORIENTATIONS
            phase = 2 * math.pi * _along(angle) / wavelength
            for wave in (torch.cos(phase), -torch.cos(phase), torch.sin(phase)):
                bar = window * wave
                bar = bar - window * (bar.sum() / window.sum())
                filters.append(_outer(_balanced(bar), _GREY))
    for sign in (1, -1):
        filters.append(_outer(sign * _blob(2.0), _GREY))
        filters.append(_outer(sign * _dot(0.8, 2.0), _GREY))
        filters.append(_outer(sign * _dot(0.5, 1.2), _GREY))
        for colour in _COLOURS:
            filters.append(_outer(sign * _blob(1.2), colour))
            filters.append(_outer(sign * _dot(0.8, 2.0), colour))
    return torch.stack(filters)


def _outer(shape: Tensor, colour: Tensor) -> Tensor:
    """(3, 7, 7) of norm 1 from (7, 7) and (3,)."""
    whole = colour[:, None, None] * shape
    unit: Tensor = whole / whole.norm()
    return unit


def _balanced(shape: Tensor) -> Tensor:
    """So that it does not answer to an even surface."""
    return shape - shape.mean()


def _along(angle: float) -> Tensor:
    """How far each pixel (7, 7) lies in this direction from the middle one."""
    ys, xs = _grid()
    return xs * math.cos(angle) + ys * math.sin(angle)


def _window(spread: float) -> Tensor:
    ys, xs = _grid()
    return torch.exp(-(xs.square() + ys.square()) / (2 * spread**2))


def _blob(spread: float) -> Tensor:
    window = _window(spread)
    return window / window.sum()


def _dot(inner: float, outer: float) -> Tensor:
    """Light on dark."""
    return _balanced(_blob(inner) - _blob(outer))


def _grid() -> tuple[Tensor, Tensor]:
    side = torch.arange(_SIDE, dtype=torch.float32) - _SIDE // 2
    ys, xs = torch.meshgrid(side, side, indexing="ij")
    return ys, xs
