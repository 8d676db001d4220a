"""Random fields: the noise that every material of a rendered picture is made of.

Value noise on a coarse grid, enlarged with cubic interpolation: fast, smooth, and
the same for the same generator. All fields are float32 with mean 0 and a standard
deviation near 1, unless a name says otherwise.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.float32]
"""(H, W) or (H, W, 3)."""
Floats = NDArray[np.floating[Any]]


def as_field(values: ArrayLike) -> Field:
    """The values as float32, copied only if they are not."""
    return np.asarray(values, np.float32)


def blurred(field: Field, sigma: float) -> Field:
    """The field after a Gaussian blur of `sigma` pixels."""
    return as_field(cv2.GaussianBlur(field, (0, 0), sigma))


def blurred_down(field: Field, sigma: float) -> Field:
    """The field after a blur along its columns only."""
    return as_field(cv2.GaussianBlur(field, (1, 2 * round(3 * sigma) + 1), 0.1, sigmaY=sigma))


def resized(field: Field, height: int, width: int, how: int = cv2.INTER_LINEAR) -> Field:
    return as_field(cv2.resize(field, (width, height), interpolation=how))


def sampled(field: Field, columns: Field, rows: Field, beyond: int) -> Field:
    """The field's values at fractional places (H, W); `beyond` is OpenCV's border mode."""
    return as_field(cv2.remap(field, columns, rows, cv2.INTER_LINEAR, None, beyond))


def ring_noise(rng: np.random.Generator, length: int, knots: int) -> Field:
    """Smooth noise around a circle: (length,), its end joins its start."""
    ring: Field = noise(rng, 1, length, cell=(1.0, length / knots), wraps=True)[0]
    return ring


def noise(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: tuple[float, float],
    *,
    wraps: bool = False,
) -> Field:
    """Smooth noise (height, width) whose grains measure `cell` = (rows, columns) pixels.

    With `wraps` the last column joins the first one.
    """
    rows = 1 if height == 1 else max(2, round(height / cell[0]) + 1)
    columns = max(2, round(width / cell[1]))
    if not wraps:
        columns += 1
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        return _unit(resized(grid, height, width, cv2.INTER_CUBIC))
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    margin = min(columns, 3)
    padded = np.concatenate([grid[:, -margin:], grid, grid[:, :margin]], axis=1)
    step = width / columns
    border = round(margin * step)
    wide = resized(padded, height, width + 2 * border, cv2.INTER_CUBIC)
    return _unit(np.ascontiguousarray(wide[:, border : border + width]))


def fractal(
    rng: np.random.Generator,
    height: int,
    width: int,
    cell: tuple[float, float],
    octaves: int = 3,
    *,
    wraps: bool = False,
) -> Field:
    """Noise (height, width) with ever finer grains: each octave half the size and weight."""
    total = noise(rng, height, width, cell, wraps=wraps)
    weight = 1.0
    for octave in range(1, octaves):
        weight /= 2
        finer = (max(1.0, cell[0] / 2**octave), max(1.0, cell[1] / 2**octave))
        total += np.float32(weight) * noise(rng, height, width, finer, wraps=wraps)
    return _unit(total)


def smoothstep(values: Floats, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, an S-curve between; in [0, 1]."""
    t = np.clip((values - low) / (high - low), 0.0, 1.0)
    return as_field(t * t * (3.0 - 2.0 * t))


def _unit(field: Field) -> Field:
    # The grid is white with deviation 1; interpolation loses about a fifth of it.
    return field * np.float32(1.2)
