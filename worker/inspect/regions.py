"""Outlines of what is strange, so that a person can accept them instead of drawing."""

import cv2
import numpy as np
from numpy.typing import NDArray

_MOST = 5
"""Regions; beyond that, outlines help nobody."""
_MOST_POINTS = 60
_TOLERANCE = 1.5
"""Pixels by which an outline may leave the true border."""


def outline(strangeness: NDArray[np.float32], threshold: float) -> list[list[list[float]]]:
    """Polygons around the pixels at or above `threshold`, the strangest region first.

    strangeness (H, W), standard deviations. Points are [x, y] in shares of width and height;
    empty where nothing is above.
    """
    height, width = strangeness.shape
    mask = (strangeness >= threshold).astype(np.uint8)
    # (H, W): 0 outside of all regions, 1 and so on inside.
    count, regions = cv2.connectedComponents(mask)
    peaks = [(float(strangeness[regions == index].max()), index) for index in range(1, count)]
    polygons = []
    for _, index in sorted(peaks, reverse=True)[:_MOST]:
        contours, _ = cv2.findContours(
            (regions == index).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        points = _simplified(contours[0][:, 0])  # (N, 2), x and y
        shares = np.minimum((points + 0.5) / (width, height), 1.0)
        polygons.append(np.round(shares, 4).tolist())
    return polygons


def _simplified(points: NDArray[np.int32]) -> NDArray[np.int32]:
    """The outline with few points, and at least three."""
    tolerance = _TOLERANCE
    few = points
    while len(few) > _MOST_POINTS or tolerance == _TOLERANCE:
        few = cv2.approxPolyDP(points, tolerance, closed=True)[:, 0].astype(np.int32)
        tolerance *= 2
    if len(few) >= 3:
        return few
    # A speck or a hairline: its rectangle.
    x, y, width, height = cv2.boundingRect(points)
    right, bottom = x + max(width, 2) - 1, y + max(height, 2) - 1
    return np.array([[x, y], [right, y], [right, bottom], [x, bottom]], np.int32)
