"""The concentric structure of the glass: shoulder, neck, rough ring, edge of the bore."""

import cv2
import numpy as np

from worker.train.render.fields import (
    Field,
    as_field,
    blurred_down,
    fractal,
    noise,
    ring_noise,
    sampled,
    smoothstep,
)
from worker.train.render.strip import ANGLES, FIRST, ROWS, Strip

# Radius and RGB of the glass, from the opening to the background. The background is
# brighter than white: the photo is exposed for the dark glass.
_RINGS: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (176, (33, 33, 46)),
    (188, (34, 33, 46)),
    (194, (42, 37, 48)),
    (200, (45, 41, 50)),
    (206, (50, 50, 58)),
    (212, (55, 58, 65)),
    (217, (49, 52, 60)),
    (240, (49, 53, 60)),
    (248, (58, 62, 69)),
    (258, (67, 71, 78)),
    (266, (71, 74, 83)),
    (276, (69, 70, 79)),
    (290, (69, 69, 78)),
    (302, (64, 63, 71)),
    (322, (64, 63, 71)),
    (334, (63, 64, 73)),
    (341, (64, 65, 74)),
    (348, (78, 79, 87)),
    (354, (103, 101, 106)),
    (360, (119, 113, 115)),
    (366, (100, 97, 101)),
    (372, (72, 73, 80)),
    (379, (58, 60, 69)),
    (385, (60, 63, 72)),
    (391, (76, 80, 88)),
    (397, (115, 121, 123)),
    (403, (182, 187, 182)),
    (409, (248, 250, 241)),
    (414, (282, 282, 276)),
    (424, (420, 420, 420)),
)


def bare_rings(rng: np.random.Generator, light: float) -> Strip:
    """Smooth rings of glass before anything is drawn on them, in the lamp's light."""
    angle = np.arange(ANGLES, dtype=np.float32) * np.float32(2 * np.pi / ANGLES)
    radius = (np.arange(ROWS, dtype=np.float32) + FIRST)[:, None]
    strip = Strip(np.empty((ROWS, ANGLES, 3), np.float32), radius, angle, light)
    nominal = np.array([r for r, _ in _RINGS], np.float32)
    shift = rng.normal(0, 1.0, len(nominal))
    shift[nominal < 217] = rng.normal(0, 3.5)
    shift[nominal > 376] = rng.normal(0, 0.6)
    # Rings may move, but never pass each other.
    nodes = np.maximum.accumulate(nominal + shift) + np.arange(len(nominal)) * 1e-3
    colours = np.array([c for _, c in _RINGS], np.float32)
    varies = rng.normal(1.0, 0.035, (len(nominal), 1)) * rng.normal(1.0, 0.012, (len(nominal), 3))
    colours = np.where((nominal < 400)[:, None], colours * varies, colours)

    # Each row is a blend of its two neighbouring rings: a (ROWS, rings) matrix of hats.
    hats = np.stack([np.interp(radius[:, 0], nodes, row) for row in np.eye(len(nodes))], axis=1)
    weights = blurred_down(as_field(hats), 1.5)
    shade = _shade(rng, strip, nominal)
    rings = (colours[:, None, :] * shade[..., None]).reshape(len(nodes), -1).astype(np.float32)
    strip.colour[:] = (weights @ rings).reshape(ROWS, ANGLES, 3)
    _wobble(rng, strip)
    return strip


def _shade(rng: np.random.Generator, strip: Strip, nominal: Field) -> Field:
    """(rings, ANGLES) brightness of each ring around the circle, 1 on average."""
    shade = 1.0 + 0.035 * np.stack([ring_noise(rng, ANGLES, 9) for _ in nominal])
    tilt, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.4)
    # Opposite the lamp (below, usually) the shoulder's rings show their full contrast,
    # and on the lamp's side next to none.
    start, stop = (np.radians(a) + strip.light + rng.normal(0, 0.05) for a in (66, 142))
    edge = rng.uniform(0.06, 0.25)
    lamp_side = strip.bump(np.radians(262) + strip.light, rng.uniform(0.3, 0.5))
    fade = rng.uniform(0.15, 0.4)
    for ring, radius in enumerate(nominal):
        if radius < 190 or radius > 405:
            shade[ring] = 1.0
        elif 330 <= radius <= 343 or 376 <= radius <= 392:
            uneven = strip.sector(start + rng.normal(0, 0.06), stop + rng.normal(0, 0.06), edge)
            shade[ring] *= 1.0 - depth * uneven * (1 + 0.12 * ring_noise(rng, ANGLES, 30))
        elif 346 <= radius <= 374:
            peak = np.exp(-0.5 * ((radius - 360) / 8) ** 2)
            around = 0.05 * np.cos(strip.angle - tilt)
            shade[ring] *= 1.0 + around + peak * (0.07 * lamp_side - fade * lamp_side)
        elif 286 <= radius <= 303:
            shade[ring] *= 1.0 - 0.5 * depth * strip.sector(start, stop, edge)
    return shade.astype(np.float32)


def _wobble(rng: np.random.Generator, strip: Strip) -> None:
    """Let the outline deviate from the circle: seams stand out by a pixel or two."""
    offset = 0.7 * ring_noise(rng, ANGLES, 7)
    seam = rng.uniform(0, 2 * np.pi)
    for centre in (seam, seam + np.pi + rng.normal(0, 0.05)):
        offset += rng.uniform(0.0, 3.5) * strip.bump(centre, rng.uniform(0.015, 0.05))
    inner = 1.2 * ring_noise(rng, ANGLES, 5)
    outward = smoothstep(strip.radius, 330.0, 400.0)
    rows = (strip.radius - FIRST) - offset[None] * outward - inner[None] * (1.0 - outward)
    columns = np.broadcast_to(np.arange(ANGLES, dtype=np.float32), rows.shape)
    strip.colour[:] = sampled(
        strip.colour, np.ascontiguousarray(columns), as_field(rows), cv2.BORDER_REPLICATE
    )


def rough_ring(rng: np.random.Generator, strip: Strip) -> None:
    """The rough dark ring that the mould leaves next to the opening, and frost beside it."""
    low, high = 206, 270
    rows = high - low
    inner = 214 + rng.normal(0, 2.0) + 1.5 * ring_noise(rng, ANGLES, 6)
    outer = 246 + rng.normal(0, 3.5) + 3.5 * ring_noise(rng, ANGLES, 5)
    outer += rng.uniform(0.8, 2.2) * ring_noise(rng, ANGLES, 220)
    radius = strip.rows(low, high)
    beyond = radius - outer[None]
    mask = smoothstep(radius - inner[None], -1.0, 2.5) * (1.0 - smoothstep(beyond, -3.0, 3.0))
    cell = float(rng.uniform(3.0, 6.5))
    height = fractal(rng, rows, ANGLES, (cell, cell * rng.uniform(1.2, 2.2)), 2, wraps=True)
    # Relief, not bumps: the rough surface is lit from one side.
    relief = height - np.roll(height, (1, 1 if rng.random() < 0.5 else -1), axis=(0, 1))
    grain = noise(rng, rows, ANGLES, (1.6, 2.5), wraps=True)
    patches = fractal(rng, rows, ANGLES, (14, 40), 2, wraps=True)
    strength = float(rng.uniform(2.8, 6.0)) * (1.0 + 0.3 * ring_noise(rng, ANGLES, 12)[None])
    texture = strength * (0.9 * relief + 0.2 * height + 0.5 * grain + 0.3 * patches)
    strip.glow(mask * (texture - np.float32(rng.uniform(2, 10))), (0.92, 1.0, 0.97), low)
    frost = np.exp(-0.5 * ((beyond - 4.0) / np.float32(rng.uniform(3, 6))) ** 2)
    frost *= 1.0 + 0.5 * ring_noise(rng, ANGLES, 9)[None]
    strip.glow(frost * (2.5 + 3.5 * grain + 2.0 * relief), (0.85, 1.0, 0.92), low)


def bore_edge(rng: np.random.Generator, strip: Strip) -> None:
    """One to three thin brown reflexes inside the opening, and its pale rim."""
    base = 200 + rng.normal(0, 3.0) + 0.8 * ring_noise(rng, ANGLES, 3)
    for offset in (0.0, -4.5, -8.5)[: rng.integers(1, 4)]:
        strength = rng.uniform(0.25, 0.8) + 0.15 * ring_noise(rng, ANGLES, 20)
        brown = (rng.uniform(68, 105), rng.uniform(46, 60), rng.uniform(46, 54))
        strip.line(base + offset, rng.uniform(0.7, 1.8), strength, brown)
    rim = base + rng.uniform(7, 11)
    strip.line(rim - 3.5, rng.uniform(1.0, 2.0), np.full(ANGLES, rng.uniform(0.2, 0.7), np.float32),
               (38, 37, 47))  # fmt: skip
    pale = rng.uniform(0.3, 0.75) + 0.25 * ring_noise(rng, ANGLES, 14)
    strip.line(rim, rng.uniform(0.7, 1.3), pale, (96, 103, 108))
    for _ in range(rng.integers(0, 4)):
        lit = strip.bump(rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.12))
        strip.line(rim, 0.8, lit * rng.uniform(0.3, 1.0), (130, 140, 138))


def neck(rng: np.random.Generator, strip: Strip) -> None:
    """Between rough ring and amber band: streaks, hairlines, and the lamp's long shadow."""
    low, high = 246, 334
    streaks = noise(rng, high - low, ANGLES, (1.8, 160), wraps=True)
    streaks = streaks + 0.5 * noise(rng, high - low, ANGLES, (1.3, 30), wraps=True)
    where = smoothstep(strip.rows(low, high), 246, 256)
    strip.glow(where * streaks * np.float32(rng.uniform(0.8, 2.8)), (0.95, 1.0, 1.02), low)
    for _ in range(rng.integers(4, 9)):
        radius = rng.uniform(254, 302) + rng.uniform(0.3, 1.5) * ring_noise(rng, ANGLES, 4)
        part = smoothstep(ring_noise(rng, ANGLES, 4), -0.3, 0.9)
        tone = rng.uniform(100, 135) if rng.random() < 0.65 else rng.uniform(38, 48)
        strip.line(radius, rng.uniform(0.5, 1.3), rng.uniform(0.15, 0.8) * part,
                   (tone * 0.97, tone * 0.98, tone * 1.06))  # fmt: skip
    edge = 291 + rng.normal(0, 2.0)
    wavy = edge + 0.8 * ring_noise(rng, ANGLES, 4)
    outline = rng.uniform(0.35, 0.85) + 0.25 * ring_noise(rng, ANGLES, 8)
    strip.line(wavy, rng.uniform(0.5, 1.0), outline, (118, 115, 127))
    strip.line(wavy - 2.2, 0.9, 0.7 * outline, (46, 46, 56))
    _long_shadow(rng, strip, edge)


def _long_shadow(rng: np.random.Generator, strip: Strip, edge: float) -> None:
    """Opposite the lamp, dark lenses lie along the neck, with bright lines between them."""
    middle = np.radians(104) + strip.light + rng.normal(0, 0.06)
    depth = rng.uniform(0.6, 1.0)
    for offset, tall in ((6.5, 3.0), (-4.5, 3.2), (-11.0, 1.6), (12.0, 1.8)):
        if rng.random() < 0.2:
            continue
        half = rng.uniform(0.45, 0.85)
        away = strip.away(middle + rng.normal(0, 0.08)) / np.float32(half)
        shape = np.sqrt(np.maximum(0.0, 1.0 - away * away)) - 0.02
        shape *= np.float32(tall * rng.uniform(0.5, 1.4)) * (1 + 0.15 * ring_noise(rng, ANGLES, 40))
        strip.lens(edge + offset + rng.normal(0, 1.2), shape, depth * rng.uniform(0.6, 1.0),
                   (29, 30, 40))  # fmt: skip
    sector = strip.bump(middle, rng.uniform(0.3, 0.5))
    for offset in (0.0, -8.0, -14.0):
        radius = edge + offset + rng.normal(0, 1.0) + 0.5 * ring_noise(rng, ANGLES, 6)
        strength = depth * sector * rng.uniform(0.3, 1.3)
        strip.line(radius, rng.uniform(0.5, 0.9), strength, (132, 134, 140))
