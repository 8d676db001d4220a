"""Outlines of foreign material, and where on the bottle it lies."""

import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field
from worker.train.render.geometry import SIDE, Pose
from worker.train.render.paint import filled

Points = NDArray[np.float64]
FRAME = (SIDE, SIDE)


def somewhere(rng: np.random.Generator, pose: Pose, low: float, high: float) -> Points:
    """A point (2,) between two nominal radii."""
    radius = np.array([rng.uniform(low, high)], np.float32)
    angle = np.array([rng.uniform(0, 2 * np.pi)], np.float32)
    point: Points = pose.to_pixels(radius, angle)[0].astype(np.float64)
    return point


def opening(pose: Pose, radius: float) -> Field:
    """Coverage (SIDE, SIDE) of the bottle's opening up to a nominal radius."""
    turn = np.linspace(0, 2 * np.pi, 120, endpoint=False, dtype=np.float32)
    return filled(pose.to_pixels(np.full_like(turn, radius), turn), FRAME)


def circle(centre: Points, radius: float) -> Points:
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    ring: Points = centre + radius * np.stack([np.cos(turn), np.sin(turn)], 1)
    return ring


def blob(
    rng: np.random.Generator, centre: Points, reach: float, corners: int, flat: float
) -> Points:
    """A random polygon (corners, 2), `flat` times as wide as long, in any direction."""
    turn = (np.arange(corners) + rng.uniform(0.0, 0.8, corners)) * (2 * np.pi / corners)
    length = reach * rng.uniform(0.45, 1.0, corners)
    u, v = length * np.cos(turn), length * flat * np.sin(turn)
    spin = rng.uniform(0, np.pi)
    c, s = np.cos(spin), np.sin(spin)
    polygon: Points = centre + np.stack([u * c - v * s, u * s + v * c], 1)
    return polygon


def curve(start: Points, handle: Points, end: Points, count: int) -> Points:
    """A quadratic curve (count, 2)."""
    t = np.linspace(0, 1, count)[:, None]
    line: Points = (1 - t) ** 2 * start + 2 * t * (1 - t) * handle + t**2 * end
    return line


def thick(line: Points, half_width: float | Points) -> Points:
    """The outline (2 N, 2) of a band around a line (N, 2)."""
    step = np.gradient(line, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], 1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    aside = normal * np.reshape(half_width, (-1, 1))
    return np.concatenate([line + aside, (line - aside)[::-1]])


def hairs(
    rng: np.random.Generator, border: Points, count: int, length: float, bend: float
) -> list[Points]:
    """Short curved fibres, each (6, 2), that stand off a border (N, 2) in all directions."""
    fibres = []
    for _ in range(count):
        k = int(rng.integers(len(border)))
        t = rng.uniform()
        start = border[k] * (1 - t) + border[(k + 1) % len(border)] * t
        reach = rng.exponential(length) + 2
        turn = rng.uniform(0, 2 * np.pi)
        end = start + reach * np.array([np.cos(turn), np.sin(turn)])
        fibres.append(curve(start, (start + end) / 2 + rng.normal(0, bend * reach, 2), end, 6))
    return fibres
