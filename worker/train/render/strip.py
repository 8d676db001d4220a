"""The unrolled glass: a polar picture in which a ring of the bottle is a row.

Two frames matter. Lamp and camera stand still while the bottle turns under them, so
that glints and shadows keep to a few angles (`light` says how far the lamp has been
moved), while mould seams and what hangs on them may be anywhere.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from worker.train.render import paint
from worker.train.render.fields import Field, Floats, as_field, noise, sampled, smoothstep

Colour = tuple[float, float, float]

FIRST, LAST = 176, 424
"""Radii of the first row and of the end, one row a nominal pixel."""
ROWS = LAST - FIRST
ANGLES = 1800
_PAD = 8


@dataclass(frozen=True)
class Strip:
    """Colours (ROWS, ANGLES, 3) of the glass, painted in place."""

    colour: Field
    radius: Field
    """(ROWS, 1)"""
    angle: Field
    """(ANGLES,)"""
    light: float
    """Angle by which the lamp is turned away from its usual place."""

    def rows(self, low: int, high: int) -> Field:
        """Radii (high - low, 1) between two of them."""
        return self.radius[low - FIRST : high - FIRST]

    def paint(self, alpha: Field, colour: Colour, low: int) -> None:
        """Lay `colour` with opacity `alpha` (rows, ANGLES) over the rows from radius `low`."""
        paint.paint(self.colour[low - FIRST : low - FIRST + alpha.shape[0]], alpha, colour)

    def glow(self, gain: Field, colour: Colour, low: int) -> None:
        """Add `gain` (rows, ANGLES) times `colour` to the rows from radius `low`."""
        paint.glow(self.colour[low - FIRST : low - FIRST + gain.shape[0]], gain, colour)

    def away(self, centre: float) -> Field:
        """(ANGLES,) signed angle from `centre`, in (-pi, pi]."""
        away: Field = (self.angle - np.float32(centre) + np.float32(np.pi)) % np.float32(
            2 * np.pi
        ) - np.float32(np.pi)
        return away

    def bump(self, centre: float, width: float) -> Field:
        """(ANGLES,) 1 at `centre`, falling like a Gaussian of `width` radians."""
        bump: Field = np.exp(-0.5 * (self.away(centre) / np.float32(width)) ** 2)
        return bump

    def sector(self, start: float, stop: float, edge: float) -> Field:
        """(ANGLES,) 1 from `start` to `stop`, 0 outside, with edges of `edge` radians."""
        half = (stop - start) / 2
        away = np.abs(self.away((start + stop) / 2))
        return 1.0 - smoothstep(away, half - edge, half + edge)

    def line(self, radius: Floats, width: float, strength: Floats, colour: Colour) -> None:
        """A thin ring: radius and strength (ANGLES,); width in pixels, one deviation."""
        low = max(int(radius.min() - 3 * width), FIRST)
        high = min(int(radius.max() + 3 * width) + 2, LAST)
        if low >= high:
            return
        away = self.rows(low, high) - radius[None]
        alpha = np.exp(np.float32(-0.5 / width**2) * away * away)
        self.paint(as_field(alpha * np.clip(strength, 0.0, 1.0)[None]), colour, low)

    def lens(self, radius: float, tall: Floats, strength: float, colour: Colour) -> None:
        """A crisp streak whose half-height is `tall` (ANGLES,) pixels; none where below 0."""
        low, high = int(radius - tall.max() - 2), int(radius + tall.max() + 3)
        away = np.abs(self.rows(low, high) - np.float32(radius))
        alpha = smoothstep(tall[None] - away, -0.8, 0.8) * np.float32(strength)
        self.paint(alpha, colour, low)

    def glint(
        self,
        rng: np.random.Generator,
        angle: float,
        radius: float,
        spread: float,
        tall: float,
        colour: Colour,
    ) -> None:
        """A lamp's reflex, torn into streaks. Spread in radians, height in pixels."""
        reach = int(3 * spread * ANGLES / (2 * np.pi)) + 4
        low = max(int(radius - 3 * tall), FIRST) - FIRST
        high = min(int(radius + 3 * tall) + 2, LAST) - FIRST
        columns = np.arange(-reach, reach + 1)
        where = (columns + round(angle * ANGLES / (2 * np.pi))) % ANGLES
        x = columns[None].astype(np.float32) * np.float32(2 * np.pi / ANGLES / spread)
        y = (self.radius[low:high] - np.float32(radius)) / np.float32(tall)
        envelope = np.exp(-0.5 * (x * x + y * y))
        torn = noise(rng, high - low, len(columns), (2.0, 9))
        torn = torn + 0.8 * noise(rng, high - low, len(columns), (1.5, 2.5))
        gain = envelope * smoothstep(torn + 2.8 * envelope, 0.4, 2.4)
        self.colour[low:high, where] += gain[..., None] * np.array(colour, np.float32)


def unroll(strip: Strip, radius: Field, angle: Field) -> Field:
    """Scene (H, W, 3) of the strip, at nominal radius and angle (H, W) of every pixel."""
    padded = cv2.copyMakeBorder(strip.colour, 0, 0, _PAD, _PAD, cv2.BORDER_WRAP)
    columns = angle * np.float32(ANGLES / (2 * np.pi)) + np.float32(_PAD)
    rows = radius - np.float32(FIRST)
    return sampled(as_field(padded), columns, rows, cv2.BORDER_REPLICATE)
