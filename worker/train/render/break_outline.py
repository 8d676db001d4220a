"""Shapes of broken rims: where the border of a break runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.train.render.geometry import OPENING, OUTER, Pose

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """The border of a break in the photo."""

    points: NDArray[np.float32]
    """(N, 2) x, y: the outer border forwards, then the inner one backwards."""
    start: float
    """Angle of the first end; the other lies `span` further."""
    span: float
    impact: NDArray[np.float32]
    """(K, 2) x, y of places where the glass is crushed: on the borders, near the blow."""


def large_outline(rng: np.random.Generator, pose: Pose) -> Outline:
    """A break through the whole width of the rim, over 45 to 250 degrees."""
    span = np.radians(rng.uniform(45, 250) if rng.random() < 0.5 else rng.uniform(110, 230))
    t = _corners(rng, int(rng.integers(7, 15)), 0.03)
    kind = rng.random()
    if kind < 0.18:
        crest = rng.uniform(OUTER - 45, OUTER - 5)
    elif kind < 0.75:
        crest = rng.uniform(300, 338)
    else:
        crest = rng.uniform(262, 300)
    # Each end is a wedge of its own steepness.
    rise = np.minimum(1.0, t * rng.uniform(3.0, 16.0)) ** rng.uniform(0.3, 0.9)
    fall = np.minimum(1.0, (1.0 - t) * rng.uniform(3.0, 16.0)) ** rng.uniform(0.3, 0.9)
    foot = rng.uniform(225, 290)
    outer = foot + (crest - foot) * np.minimum(rise, fall) + rng.normal(0, 7, len(t))
    u = np.linspace(0, 1, 9)
    inner = OPENING - 4 + rng.normal(0, 4) + rng.normal(0, 1.5, 9)
    for end, ramp in ((0, 1 - u), (1, u)):
        # Some ends do not reach the opening but stop within the rim.
        if rng.random() < 0.4:
            lift = (foot if end == 0 else outer[-1]) - OPENING
            inner = inner + rng.uniform(0.2, 0.8) * lift * np.maximum(0, ramp * 6 - 5)
    return _outline(rng, pose, rng.uniform(0, 2 * np.pi), span, (t, outer), (u, inner))


def small_outline(rng: np.random.Generator, pose: Pose, span: float) -> Outline:
    """A chip over `span` radians: a shell from the opening, a lens in the rim, or a thin sliver."""
    t = _corners(rng, int(rng.integers(4, 9)), 0.08)
    u = np.linspace(0, 1, int(rng.integers(5, 10)))
    peak = rng.uniform(0.3, 0.7)
    kind = rng.random()
    crest = rng.uniform(285, 325) if rng.random() < 0.7 else rng.uniform(240, 290)
    if kind < 0.7:
        # A shell: the blow came from the opening, the ends run out within the rim.
        low = OPENING + rng.uniform(-8, 5)
        middle = low + (crest - low) * rng.uniform(0.25, 0.8)
        reach = rng.uniform(0.5, 1.6)
        inner = middle - (middle - low) * np.minimum(1.0, reach * 1.3 * _hump(u, peak, 0.8))
    elif kind < 0.88:
        low = rng.uniform(212, 250)
        middle = low + (crest - low) * rng.uniform(0.3, 0.7)
        inner = middle - (middle - low) * _hump(u, peak, rng.uniform(0.4, 0.9))
    else:
        low = OPENING + rng.uniform(-2, 3)
        crest = rng.uniform(218, 250)
        middle = low + 2
        inner = np.full(len(u), low)
    outer = middle + (crest - middle) * _hump(t, peak, rng.uniform(0.2, 0.8))
    outer = outer + rng.normal(0, 3.0, len(t))
    inner = np.maximum(inner + rng.normal(0, 1.5, len(u)), OPENING - 9)
    return _outline(rng, pose, rng.uniform(0, 2 * np.pi), span, (t, outer), (u, inner))


def _corners(rng: np.random.Generator, count: int, margin: float) -> Floats:
    return np.sort(np.concatenate([[0.0, 1.0], rng.uniform(margin, 1 - margin, count)]))


def _hump(t: Floats, peak: float, power: float) -> Floats:
    """0 at both ends, 1 at `peak`; straight flanks for power 1, rounder below."""
    hump: Floats = np.minimum(t / peak, (1 - t) / (1 - peak)) ** power
    return hump


def _outline(
    rng: np.random.Generator,
    pose: Pose,
    start: float,
    span: float,
    outer: tuple[Floats, Floats],
    inner: tuple[Floats, Floats],
) -> Outline:
    """Join the two borders, straight between corners as glass cracks, and roughen them."""
    fine = np.linspace(0, 1, max(20, int(np.degrees(span) * 1.2)))
    rough = np.interp(fine, *outer) + _crackle(rng, len(fine), rng.uniform(0.3, 2.2))
    back = np.interp(fine, *inner) + rng.normal(0, 0.5, len(fine))
    back = np.minimum(back, rough - 1.0)
    radius = np.concatenate([rough, back[::-1]])
    angle = start + span * np.concatenate([fine, fine[::-1]])
    points = pose.to_pixels(radius.astype(np.float32), angle.astype(np.float32))
    blow = int(len(fine) * rng.uniform(0.25, 0.75))
    near = np.clip(blow + rng.normal(0, 0.12 * len(fine), 2), 0, len(fine) - 1).astype(int)
    ends = rng.integers(0, 2, 1) * (len(fine) - 1)
    at = np.concatenate([near, ends])
    depth = np.array([rng.uniform(0.0, 0.3), rng.uniform(0.6, 1.0), rng.uniform(0, 1)])
    crushed = back[at] + depth * (rough[at] - back[at])
    turned = start + span * fine[at]
    impact = pose.to_pixels(crushed.astype(np.float32), turned.astype(np.float32))
    return Outline(points, float(start), float(span), impact)


def _crackle(rng: np.random.Generator, length: int, size: float) -> Floats:
    """Roughness with a few abrupt steps: (length,), in pixels."""
    steps = np.where(rng.random(length) < 0.08, rng.normal(0, 4.0, length), 0.0)
    walk = np.cumsum(steps) - np.linspace(0, 1, length) * steps.sum()
    crackle: Floats = np.clip(size * (rng.normal(0, 0.4, length) + 0.6 * walk), -12, 12)
    return crackle
