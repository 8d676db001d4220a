"""Maps onto photos: blue where nothing speaks for a defect, red where much does.

The scales are fixed by the bundle, never by the photo at hand, so a good part
stays blue all over.
"""

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

OPACITY = 0.45
JPEG_QUALITY = 90
_JET = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_JET)
"""Its colours, BGR; told by name alone, OpenCV makes them anew for every map."""


def scale(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Values between the bundle's limits as [0, 1]; what lies outside is clipped."""
    scaled: NDArray[np.float32] = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def draw_overlay(photo: NDArray[np.uint8], heat: NDArray[np.float32]) -> bytes:
    """JPEG of the photo with the heat map laid over it at 45 % opacity.

    photo (256, 256, 3) RGB; heat (H, W) in [0, 1], resized to the photo.
    """
    size = (photo.shape[1], photo.shape[0])
    # Rounded before the colours are looked up: JET has 256 of them.
    levels = np.rint(cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR) * 255)
    colours = cv2.applyColorMap(levels.astype(np.uint8), _JET)
    blended = cv2.addWeighted(
        colours, OPACITY, cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), 1 - OPACITY, 0
    )
    return _to_jpeg(blended)


def encode(photo: NDArray[np.uint8]) -> bytes:
    """JPEG of the photo alone: (H, W, 3) RGB."""
    return _to_jpeg(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))


def _to_jpeg(bgr: MatLike) -> bytes:
    is_encoded, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not is_encoded:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return jpeg.tobytes()
