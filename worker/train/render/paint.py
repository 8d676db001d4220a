"""Laying colour over a picture in place, only where there is something to lay.

A product of (H, W, 1) and (3,) is slow in numpy, whose inner loop then has three
steps: fields are spread to three channels by OpenCV, and colours to whole rows.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike

from worker.train.render.fields import Field, Floats, as_field


def spread(field: Field) -> Field:
    """(H, W, 3) with the same values in every channel."""
    return as_field(cv2.merge((field, field, field)))


def row_of(colour: ArrayLike, width: int) -> Field:
    """A colour (3,) as a row (width * 3,), to be combined with (H, width * 3) pictures."""
    return np.tile(np.asarray(colour, np.float32), width)


def paint(picture: Field, alpha: Field, colour: ArrayLike, tone: Field | None = None) -> None:
    """Lay `colour` (3,), brightened by `tone` (H, W), with opacity `alpha` (H, W) over it."""
    window = _extent(alpha)
    if window is None:
        return
    area = picture[window]
    height, width = area.shape[:2]
    over = np.repeat(row_of(colour, width)[None], height, 0).reshape(area.shape)
    if tone is not None:
        over += spread(np.ascontiguousarray(tone[window]))
    over -= area
    over *= spread(np.ascontiguousarray(alpha[window]))
    area += over


def cover(picture: Field, alpha: Field, other: Field) -> None:
    """Lay the picture `other` (H, W, 3) with opacity `alpha` (H, W) over it."""
    window = _extent(alpha)
    if window is None:
        return
    over = other[window] - picture[window]
    over *= spread(np.ascontiguousarray(alpha[window]))
    picture[window] += over


def glow(picture: Field, gain: Field, colour: ArrayLike) -> None:
    """Add `gain` (H, W) times `colour` (3,)."""
    window = _extent(gain)
    if window is None:
        return
    area = picture[window]
    height, width = area.shape[:2]
    light = spread(np.ascontiguousarray(gain[window])).reshape(height, -1)
    light *= row_of(colour, width)
    area += light.reshape(area.shape)


def filled(points: Floats, shape: tuple[int, ...]) -> Field:
    """Coverage (H, W) in [0, 1] of a polygon (N, 2) of x, y, antialiased."""
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) * np.float32(1 / 255)


def stroked(lines: Sequence[Floats], shape: tuple[int, ...], width: int = 1) -> Field:
    """Coverage (H, W) in [0, 1] of open lines, each (N, 2) of x, y, `width` pixels wide."""
    canvas = np.zeros(shape[:2], np.uint8)
    fixed = [np.round(line * 16).astype(np.int32) for line in lines]
    cv2.polylines(canvas, fixed, False, 255, width, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) * np.float32(1 / 255)


def _extent(field: Field) -> tuple[slice, slice] | None:
    """The smallest window that holds everything but zeros."""
    x, y, width, height = cv2.boundingRect((field != 0).view(np.uint8))
    if width == 0:
        return None
    return slice(y, y + height), slice(x, x + width)
