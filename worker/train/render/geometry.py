"""Where a bottle lies in the photo: from polar coordinates on the glass to pixels and back.

Radii are in nominal pixels of a 900 px photo, whose bottle has an outer radius of
about 400; angles are radians, 0 to the right, growing clockwise (y points down).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field, Floats, as_field, resized

SIDE = 900
"""Scenes are composed at this many pixels a side, and resized afterwards."""

OPENING = 196.0
"""Nominal radius at which the glass begins."""
OUTER = 399.0
"""Nominal radius at which the blurred shoulder meets the background."""

_PARALLAX_FROM, _PARALLAX_TO = 205.0, 400.0
_COARSE = 6


@dataclass(frozen=True)
class Pose:
    """Place, size and tilt of one bottle."""

    x: float
    y: float
    scale: float
    tilt_x: float
    """Shift of the opening against the shoulder in pixels: the mouth is nearer to the camera."""
    tilt_y: float
    stretch: float
    """Relative difference of the two axes of the outline."""
    stretch_angle: float

    def to_pixels(self, radius: Field, angle: Field) -> NDArray[np.float32]:
        """(N, 2) x, y of points on the glass."""
        r = radius * (1.0 + self.stretch * np.cos(2.0 * (angle - self.stretch_angle)))
        near = 1.0 - np.clip((radius - _PARALLAX_FROM) / (_PARALLAX_TO - _PARALLAX_FROM), 0.0, 1.0)
        x = self.x + self.scale * r * np.cos(angle) + near * self.tilt_x
        y = self.y + self.scale * r * np.sin(angle) + near * self.tilt_y
        return np.stack([x, y], axis=-1).astype(np.float32)

    def to_polar(self) -> tuple[Field, Field]:
        """Nominal radius and angle (SIDE, SIDE) of every pixel."""
        x, y = self._grid(1)
        radius, angle = cv2.cartToPolar(x, y)
        radius *= np.float32(1.0 / self.scale)
        # First-order inverse of to_pixels: shifts are a few pixels, their error below one.
        # They vary slowly: a coarse grid of them does.
        x, y = self._grid(_COARSE)
        coarse = np.sqrt(x * x + y * y) / np.float32(self.scale)
        inverse = 1.0 / np.maximum(coarse, 1.0) / np.float32(self.scale**2)
        along = (x * np.float32(self.tilt_x) + y * np.float32(self.tilt_y)) * inverse
        cos2, sin2 = np.cos(2 * self.stretch_angle), np.sin(2 * self.stretch_angle)
        oval = ((x * x - y * y) * np.float32(cos2) + 2 * x * y * np.float32(sin2)) * inverse
        shift = _nearness(coarse) * along + oval * np.float32(self.stretch)
        radius -= resized(as_field(shift), SIDE, SIDE)
        return as_field(radius), as_field(angle)

    def _grid(self, step: int) -> tuple[Field, Field]:
        """x and y of the centres of blocks of `step` pixels, from the bottle's axis."""
        centres = np.arange(step / 2 - 0.5, SIDE, step, dtype=np.float32)
        x, y = np.meshgrid(centres - np.float32(self.x), centres - np.float32(self.y))
        return x, y


def _nearness(radius: Floats) -> Floats:
    """1 at the mouth, which is near to the camera, 0 at the shoulder."""
    near: Floats = np.clip(
        (_PARALLAX_TO - radius) * np.float32(1.0 / (_PARALLAX_TO - _PARALLAX_FROM)), 0.0, 1.0
    )
    return near


def draw_pose(rng: np.random.Generator) -> Pose:
    """A bottle as a conveyor presents it: centred to a few pixels, nearly upright."""
    return Pose(
        x=float(450.0 + rng.normal(0, 2.5)),
        y=float(450.5 + rng.normal(0, 2.5)),
        scale=float(np.clip(rng.normal(1.0, 0.006), 0.975, 1.025)),
        tilt_x=float(rng.normal(0, 3.5)),
        tilt_y=float(rng.normal(-2.0, 3.5)),
        stretch=float(abs(rng.normal(0, 0.002))),
        stretch_angle=float(rng.uniform(0, np.pi)),
    )
