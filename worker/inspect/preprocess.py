"""From a file's bytes to the pixels that the models see: the one way for training and serving.

A model judges well only what was prepared as its training photos were. So both
call `prepare`, and a change of the pixels that comes out of it, or of what the statistics
of good parts in a bundle are taken from, takes a new `VERSION`: a bundle says with which one
it was trained, and serving refuses others. 2: the autoencoder's are of roots of grey values.

No torch here: it runs in decoding processes, which have to be small.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from shared.manifest import QualityLimits
from shared.verdicts import QualityReason
from worker.inspect.decode import Pixels, decode

VERSION = "2"

SIDE = 256
"""Pixels of the square that the models see."""


@dataclass(frozen=True)
class Quality:
    sharpness: float
    """Variance of the Laplacian of the 256 x 256 grey picture, grey in [0, 255]."""
    brightness: float
    """Mean grey value in [0, 255]."""
    side: int
    """Shorter side of the photo as it came, pixels."""


@dataclass(frozen=True)
class Photo:
    pixels: Pixels
    """(256, 256, 3) RGB, 0 to 255."""
    quality: Quality


def prepare(data: bytes) -> Photo:
    """Decode, shrink and measure one file; safe to call from several threads at once.

    Raises NotAnImage, UnreadableImage or ImageOutOfBounds.
    """
    return shrink(decode(data))


def shrink(rgb: Pixels) -> Photo:
    """What the models and the quality limits see of a decoded picture (H, W, 3)."""
    pixels = resize(rgb)
    return Photo(pixels, measure_quality(pixels, side=min(rgb.shape[:2])))


def resize(rgb: Pixels) -> Pixels:
    """(256, 256, 3) from (H, W, 3), each side scaled on its own; of one channel without the 3.

    Shrinking averages all the pixels that fall into one (INTER_AREA). Plain
    bilinear looks at four of them: at 900 to 256 a hairline crack is there or
    gone with where it happens to lie. Enlarging interpolates linearly, because
    cubic overshoots at edges, and a bright seam there looks like a defect.
    """
    height, width = rgb.shape[:2]
    # The same averaging, but in whole steps it is fast: 1.4 ms for 3.0 at 900 x 900 pixels. It
    # stops where what is left would be less than 1.5 to 1, and the steps too coarse for it.
    while min(width, height) > 3 * SIDE and width % 2 == height % 2 == 0:
        width, height = width // 2, height // 2
        rgb = _scale(rgb, width, height, cv2.INTER_AREA)
    # Where one side grows, INTER_AREA is bilinear on both: shrink first, then enlarge.
    rgb = _scale(rgb, min(width, SIDE), min(height, SIDE), cv2.INTER_AREA)
    return _scale(rgb, SIDE, SIDE, cv2.INTER_LINEAR)


def _scale(rgb: Pixels, width: int, height: int, interpolation: int) -> Pixels:
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=interpolation), np.uint8)


def measure_quality(rgb_256: Pixels, *, side: int = SIDE) -> Quality:
    """Sharpness and brightness of a (256, 256, 3) RGB picture whose original had this side.

    Sharpness is the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000):
    defocus and motion take away the high frequencies that it sums up.
    """
    grey = cv2.cvtColor(rgb_256, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_64F)
    return Quality(float(laplacian.var()), float(grey.mean()), side)


def quality_reasons(quality: Quality, limits: QualityLimits) -> tuple[QualityReason, ...]:
    """Why the photo is too poor to judge; empty where it is good enough."""
    reasons: list[QualityReason] = []
    if quality.sharpness < limits.min_sharpness:
        reasons.append(QualityReason.BLURRED)
    if quality.brightness < limits.min_brightness:
        reasons.append(QualityReason.DARK)
    if quality.brightness > limits.max_brightness:
        reasons.append(QualityReason.OVEREXPOSED)
    if quality.side < limits.min_side:
        reasons.append(QualityReason.TOO_SMALL)
    return tuple(reasons)
