"""What optics and sensor make of a scene: blur, exposure, colour cast, vignette, noise.

The scene may be brighter than white: a saturated background must stay at 255 under
noise, as it does in an overexposed photo.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field

_SENSOR_NOISE = (2.1, 1.7, 2.7)
"""Standard deviations of red, green and blue in grey values, at usual exposure."""


def photograph(rng: np.random.Generator, scene: Field) -> NDArray[np.uint8]:
    """Photo (H, W, 3) RGB of `scene` (H, W, 3), whose values are grey values before clipping.

    Every setting is drawn anew: an inspection station drifts over weeks.
    """
    height, width = scene.shape[:2]
    sigma = float(np.clip(rng.normal(0.65, 0.2), 0.3, 1.4))
    photo = cv2.GaussianBlur(scene, (0, 0), sigma)

    cast = rng.normal(1.0, 0.025, 3) * rng.normal(1.0, 0.05)
    black = rng.normal(0.0, 1.5, 3)
    photo *= cast.astype(np.float32)
    photo += black.astype(np.float32)
    if rng.random() < 0.5:
        photo *= _vignette(rng, height, width)[..., None]

    grain = rng.standard_normal((height, width, 3), dtype=np.float32)
    # A demosaiced sensor's noise is not white: neighbours share part of it.
    grain = cv2.GaussianBlur(grain, (3, 3), 0.55)
    level = float(rng.lognormal(0.0, 0.25)) * 1.75
    grain *= np.array([level * s for s in _SENSOR_NOISE], np.float32)
    photo += grain
    _hot_pixels(rng, photo)
    clipped: NDArray[np.uint8] = cv2.convertScaleAbs(np.maximum(photo, 0.0))
    return clipped


def _vignette(rng: np.random.Generator, height: int, width: int) -> Field:
    strength = abs(rng.normal(0.0, 0.03))
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] + rng.normal(0, 0.1)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None] + rng.normal(0, 0.1)
    shade: Field = (1.0 - strength * (x * x + y * y)).astype(np.float32)
    return shade


def _hot_pixels(rng: np.random.Generator, photo: Field) -> None:
    height, width = photo.shape[:2]
    for _ in range(int(rng.poisson(60))):
        y, x = int(rng.integers(1, height - 1)), int(rng.integers(1, width - 1))
        channel = int(rng.integers(0, 3))
        glow = float(rng.exponential(25.0))
        photo[y, x, channel] += glow
        photo[y, x + 1, channel] += glow * 0.5
        photo[y + 1, x, channel] += glow * 0.4
