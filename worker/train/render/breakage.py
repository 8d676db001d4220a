"""Broken glass: where the rim is missing one sees the fracture surface instead.

Inside a break the rings are gone. There is a smooth blue-grey surface, dark in
places, out of focus where it lies deep, with soft streaks along the rim, crisp
facets towards the ends, and crushed glass that shines white and gold where the blow
fell.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.break_outline import Outline, large_outline, small_outline
from worker.train.render.crushed_glass import add_crushed_glass, add_splinters
from worker.train.render.fields import (
    Field,
    as_field,
    blurred,
    fractal,
    noise,
    resized,
    sampled,
    smoothstep,
)
from worker.train.render.geometry import OUTER, SIDE, Pose
from worker.train.render.paint import cover, filled, paint, stroked

_MARGIN = 14


def break_glass(
    rng: np.random.Generator,
    scene: Field,
    pose: Pose,
    polar: tuple[Field, Field],
    *,
    is_large: bool,
) -> NDArray[np.bool_]:
    """Break the rim in `scene` (SIDE, SIDE, 3); returns the broken pixels (SIDE, SIDE).

    `polar` is `pose.to_polar()`. A large break spans 45 to 250 degrees, a small one 8
    to 110, and sometimes tiny chips lie beside it.
    """
    if is_large:
        return _break(rng, scene, polar, large_outline(rng, pose), depth=rng.uniform(0.2, 1.0))
    span = np.radians(float(np.clip(rng.lognormal(np.log(42), 0.6), 8, 120)))
    depth = float(max(0.0, rng.normal(0.05, 0.2)))
    mask = _break(rng, scene, polar, small_outline(rng, pose, span), depth=depth)
    for _ in range(int(rng.choice(3, p=(0.75, 0.18, 0.07)))):
        tiny = np.radians(rng.uniform(3, 9))
        mask |= _break(rng, scene, polar, small_outline(rng, pose, tiny), depth=0.0)
    return mask


def _break(
    rng: np.random.Generator,
    scene: Field,
    polar: tuple[Field, Field],
    outline: Outline,
    *,
    depth: float,
) -> NDArray[np.bool_]:
    """Replace the outline's inside by a fracture; depth 0 is in focus, 1 far below."""
    low = np.maximum(np.floor(outline.points.min(0)).astype(int) - _MARGIN, 0)
    high = np.minimum(np.ceil(outline.points.max(0)).astype(int) + _MARGIN, SIDE)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    corner = low.astype(np.float32)
    points, impact = outline.points - corner, outline.impact - corner
    radius, angle = polar[0][window], polar[1][window]
    along = (angle - np.float32(outline.start)) % np.float32(2 * np.pi) / np.float32(outline.span)

    solid = filled(points, radius.shape)
    solid *= 1.0 - smoothstep(radius, OUTER - 14.0, OUTER + 2.0)
    deep = smoothstep(np.minimum(along, 1.0 - along), 0.02, 0.28) * np.float32(depth)
    soft = blurred(solid, 1.0 + 5.0 * depth)

    patch = scene[window]
    turned = along * np.float32(outline.span)
    grey = _fracture(rng, radius, turned)
    _facets(rng, grey, points, float(solid.sum()), depth)
    brown = _streaks(rng, grey, radius, turned, deep)
    grey = _defocus(grey, deep)
    add_splinters(rng, grey, solid, deep)
    surface = _coloured(rng, grey, brown, patch, depth)
    cover(patch, solid + deep * (soft - solid), surface)
    _rim_light(rng, patch, points, deep)
    add_crushed_glass(rng, patch, impact, solid, float(np.sqrt(solid.sum())))
    mask = np.zeros(scene.shape[:2], np.bool_)
    mask[window] = solid >= 0.5
    return mask


def _along_rim(
    rng: np.random.Generator, radius: Field, turned: Field, cell: tuple[float, float]
) -> Field:
    """Noise whose grains follow the rim: `cell` in pixels across and along it."""
    low, high = float(radius.min()), float(radius.max())
    rows, columns = int((high - low) / 2) + 4, 700
    field = fractal(rng, rows, columns, (cell[0] / 2, cell[1] / 2), 3)
    x = turned * np.float32(columns / (2 * np.pi))
    y = (radius - np.float32(low)) * np.float32(0.5)
    return sampled(field, x, y, cv2.BORDER_REFLECT)


def _fracture(rng: np.random.Generator, radius: Field, turned: Field) -> Field:
    """Grey values (H, W) of the bare fracture surface: even, dark in places."""
    tone = np.float32(rng.uniform(50, 76))
    cell = rng.uniform(30, 110)
    broad = _along_rim(rng, radius, turned, (cell * 0.5, cell * rng.uniform(0.8, 3.0)))
    surface = tone + np.float32(rng.uniform(1.5, 6.0)) * broad
    # Towards the opening the glass is thinner and darker.
    surface -= (1.0 - smoothstep(radius, 195.0, 290.0)) * np.float32(rng.uniform(-3, 14))
    patches = _along_rim(rng, radius, turned, (40, 90))
    limit = rng.uniform(0.4, 3.0)
    dark = smoothstep(patches, limit, limit + rng.uniform(0.3, 1.2))
    surface += dark * (np.float32(rng.uniform(30, 44)) - surface)
    return surface


def _facets(
    rng: np.random.Generator, grey: Field, points: NDArray[np.float32], area: float, depth: float
) -> None:
    """Flat planes of cracked glass with crisp edges, mostly near the break's ends."""
    size = float(np.sqrt(area))
    # The outline runs outwards first: its ends are the ends and the middle of the points.
    ends = np.array([0, len(points) // 2, len(points) - 1])
    for _ in range(rng.integers(2, 8)):
        is_at_end = rng.random() < 0.3 + 0.6 * depth
        anchor = points[rng.choice(ends) if is_at_end else rng.integers(len(points))]
        reach = rng.uniform(0.12, 0.45) * size + 6
        turn = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 7))))
        corners = anchor + rng.normal(0, 0.08 * size, 2)
        corners = corners + reach * np.stack([np.cos(turn), rng.uniform(0.4, 1) * np.sin(turn)], 1)
        low = np.maximum(np.floor(corners.min(0)).astype(int) - 1, 0)
        high = np.minimum(np.ceil(corners.max(0)).astype(int) + 2, grey.shape[::-1])
        if np.any(high - low < 3):
            continue
        area_of_plane = grey[low[1] : high[1], low[0] : high[0]]
        _facet(rng, area_of_plane, corners - low)


def _facet(rng: np.random.Generator, grey: Field, corners: NDArray[np.float64]) -> None:
    height, width = grey.shape
    plane = filled(corners, (height, width))
    step = np.float32(rng.normal(0, 11)) + noise(rng, height, width, (height, width)) * 4
    if rng.random() < 0.3:
        speckle = smoothstep(noise(rng, height, width, (2, 2)), 1.0, 2.4)
        step = step + speckle * np.float32(rng.uniform(10, 60))
    grey += plane * step
    following = np.roll(corners, -1, axis=0)
    edges = [np.stack(side) for side in zip(corners, following, strict=True)]
    shown = [edge for edge in edges if rng.random() < 0.4]
    line = stroked(shown, (height, width)) * np.float32(rng.uniform(0.1, 0.6))
    grey += line * (np.float32(rng.uniform(80, 160)) - grey)


def _streaks(
    rng: np.random.Generator, grey: Field, radius: Field, turned: Field, deep: Field
) -> Field:
    """Add conchoidal ridges that follow the rim; returns the gain (H, W) of the brown ones."""
    brown = np.zeros_like(grey)
    for _ in range(rng.integers(1, 5)):
        cell = rng.uniform(10, 36)
        folded = _along_rim(rng, radius, turned, (cell, cell * rng.uniform(2, 6)))
        ridge = np.maximum(0.0, 1.0 - np.abs(folded) * np.float32(rng.uniform(1.5, 4.0)))
        where = smoothstep(_along_rim(rng, radius, turned, (60, 90)), 0.2, 1.6)
        gain = ridge * where * (0.35 + 0.65 * deep) * np.float32(rng.uniform(8, 85))
        if rng.random() < 0.7:
            grey += gain
        else:
            brown += gain
    return blurred(brown, 3.0)


def _defocus(grey: Field, deep: Field) -> Field:
    """Blur what lies deep."""
    strength = float(deep.max())
    if strength < 0.1:
        return grey
    soft = blurred(grey, 1.5 + 5.0 * strength)
    defocused: Field = grey + smoothstep(deep, 0.05, 0.6) * (soft - grey)
    return defocused


def _coloured(
    rng: np.random.Generator, grey: Field, brown: Field, behind: Field, depth: float
) -> Field:
    """(H, W, 3): bluish glass, brown streaks, and dimly what one sees through it."""
    blue = np.float32(rng.uniform(1.08, 1.18))
    surface = as_field(
        cv2.merge(
            (0.985 * grey + 1.1 * brown, 0.99 * grey + 0.75 * brown, blue * grey + 0.5 * brown)
        )
    )
    # Smeared over many pixels: a quarter of the resolution is enough.
    height, width = grey.shape
    small = resized(behind, height // 4 + 1, width // 4 + 1, cv2.INTER_AREA)
    small = blurred(np.minimum(small, 140.0), 2.0 + 2.0 * depth)
    smeared = resized(small, height, width)
    surface += np.float32(rng.uniform(0.03, 0.25)) * (smeared - surface)
    return surface


def _rim_light(
    rng: np.random.Generator, patch: Field, points: NDArray[np.float32], deep: Field
) -> None:
    """Stretches of the border that catch light, are amber from behind, or lie in shadow."""
    count = len(points)
    crisp = 1.0 - 0.8 * deep
    for colour, width in (
        ((120, 120, 124), 1),
        ((150, 150, 150), 1),
        ((165, 108, 66), 2),
        ((28, 27, 34), 2),
    ):
        pieces = []
        for _ in range(rng.integers(0, 4)):
            start, length = int(rng.integers(count)), int(rng.integers(3, max(4, count // 5)))
            pieces.append(points[np.arange(start, start + length) % count])
        alpha = stroked(pieces, deep.shape, width) * crisp * np.float32(rng.uniform(0.15, 0.85))
        alpha *= smoothstep(noise(rng, deep.shape[0], deep.shape[1], (9, 9)), -1.2, 0.6)
        paint(patch, alpha, np.array(colour) * rng.uniform(0.75, 1.25))
