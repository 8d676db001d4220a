"""What optics and sensor make of a scene: blur, exposure, colour cast, vignette, noise.

The scene may be brighter than white: a saturated background must stay at 255 under
noise, as it does in an overexposed photo.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field, as_field, blurred
from worker.train.render.paint import row_of, spread

_SENSOR_NOISE = (2.1, 1.7, 2.7)
"""Standard deviations of red, green and blue in grey values, at usual exposure."""
_GRAIN_SIGMA = 0.55
_KERNEL = cv2.getGaussianKernel(3, _GRAIN_SIGMA)
# A uniform byte's deviation is sqrt((256^2 - 1) / 12); a blur scales it by its kernel's norm.
_BLURRED_BYTES_DEVIATION = float(np.sqrt((256**2 - 1) / 12) * np.sum(_KERNEL**2))


def photograph(rng: np.random.Generator, scene: Field) -> NDArray[np.uint8]:
    """Photo (H, W, 3) RGB of `scene` (H, W, 3), whose values are grey values before clipping.

    Every setting is drawn anew: an inspection station drifts over weeks.
    """
    height, width = scene.shape[:2]
    sigma = float(np.clip(rng.normal(0.5, 0.2), 0.3, 1.4))
    photo = blurred(scene, sigma)
    # Industrial cameras sharpen, some more than others.
    edge = float(rng.uniform(0.0, 0.9))
    photo += np.float32(edge) * (photo - blurred(scene, 1.8))

    # Mostly the station is as it was set up; sometimes lamp or camera have been changed.
    drift = 1.0 if rng.random() < 0.7 else 2.5
    warm, green = rng.normal(0, 0.012 * drift), rng.normal(0, 0.006 * drift)
    exposure = rng.normal(1.0, 0.025 * drift)
    cast = exposure * np.array([1.0 + warm, 1.0 + green, 1.0 - warm])
    black = rng.normal(0.0, 0.6 * drift) + rng.normal(0.0, 0.3 * drift, 3)
    flat = photo.reshape(height, -1)
    flat *= row_of(cast, width)
    flat += row_of(black, width)
    if rng.random() < 0.5:
        photo *= spread(_vignette(rng, height, width))

    # A demosaiced sensor's noise is not white: neighbours share part of it. Random
    # bytes are as good as normal numbers once they are blurred, and far cheaper.
    white = np.frombuffer(rng.bytes(photo.size), np.uint8).reshape(photo.shape)
    grain = as_field(cv2.GaussianBlur(as_field(white), (3, 3), _GRAIN_SIGMA))
    grain -= np.float32(127.5)
    level = float(rng.lognormal(0.0, 0.25)) / _BLURRED_BYTES_DEVIATION
    noise = grain.reshape(height, -1)
    noise *= row_of([level * s for s in _SENSOR_NOISE], width)
    photo += grain
    _hot_pixels(rng, photo)
    return np.clip(photo, 0.0, 255.0).astype(np.uint8)


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
