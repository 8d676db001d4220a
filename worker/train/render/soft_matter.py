"""Soft foreign material: felt, ribbons, liquid or cork in the opening, haze, crumbs.

Each function paints itself over the scene and returns its coverage (SIDE, SIDE).
"""

import numpy as np

from worker.train.render.fields import (
    Field,
    as_field,
    blurred,
    blurred_down,
    fractal,
    noise,
    smoothstep,
)
from worker.train.render.geometry import OPENING, SIDE, Pose
from worker.train.render.paint import filled, paint, stroked
from worker.train.render.shapes import FRAME, blob, circle, hairs, opening, somewhere, thick


def grey(rng: np.random.Generator, low: float, high: float) -> Field:
    """(3,) a grey between two tones, hardly tinted."""
    tone = rng.uniform(low, high)
    return as_field(tone * rng.normal((1.0, 1.0, 1.05), (0.03, 0.02, 0.05)))


def brown(rng: np.random.Generator, low: float, high: float) -> Field:
    """(3,) a brown whose red lies between two tones."""
    red = rng.uniform(low, high)
    return as_field(red * np.array([1.0, rng.uniform(0.6, 0.8), rng.uniform(0.4, 0.7)]))


def felt(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A cut piece of fuzzy grey felt in the opening, behind its edge or over it."""
    centre = somewhere(rng, pose, 0, 140)
    outline = blob(rng, centre, rng.uniform(60, 210), int(rng.integers(4, 9)), rng.uniform(0.4, 1))
    sharp = filled(outline, FRAME)
    soft = blurred(sharp, float(rng.uniform(1.0, 5.0)))
    ragged = smoothstep(soft + 0.1 * noise(rng, SIDE, SIDE, (6, 6)), 0.25, 0.75)
    fibres = hairs(rng, outline, int(rng.integers(20, 120)), 9.0, 0.3)
    fringe = stroked(fibres, FRAME) * np.float32(rng.uniform(0.2, 0.6))
    if rng.random() < 0.85:
        inside = opening(pose, OPENING - rng.uniform(0, 8))
        ragged *= inside
        fringe *= inside
    grain = noise(rng, SIDE, SIDE, (1.6, 1.6)) + 0.7 * noise(rng, SIDE, SIDE, (2, 9))
    broad = fractal(rng, SIDE, SIDE, (140, 140), 3)
    tone = grain * np.float32(rng.uniform(2, 8)) + broad * np.float32(rng.uniform(3, 11))
    colour = grey(rng, 42, 88)
    paint(scene, ragged * np.float32(rng.uniform(0.65, 1.0)), colour, tone)
    paint(scene, fringe, colour + 22)
    return ragged


def ribbon(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A folded strip of low contrast, with a fibrous edge that catches the light."""
    corners = np.stack([somewhere(rng, pose, 20, 185) for _ in range(rng.integers(3, 6))])
    steps = np.linspace(0, len(corners) - 1, 40)
    bent = [np.interp(steps, np.arange(len(corners)), corners[:, k]) for k in (0, 1)]
    line = blurred_down(as_field(np.stack(bent, 1)), 1.5).astype(np.float64)
    width = rng.uniform(6, 26) * (1 + 0.4 * np.sin(steps * rng.uniform(0.5, 2) + rng.uniform(0, 6)))
    border = thick(line, width)
    cover = filled(border, FRAME)
    if rng.random() < 0.6:
        cover = np.maximum(cover, filled(blob(rng, line[-1], rng.uniform(30, 90), 5, 0.7), FRAME))
    cover = blurred(cover, float(rng.uniform(1.0, 3.0)))
    inside = opening(pose, OPENING + 3)
    cover *= inside
    tone = fractal(rng, SIDE, SIDE, (60, 60), 3) * np.float32(rng.uniform(1, 4))
    tone += noise(rng, SIDE, SIDE, (2, 2)) * np.float32(rng.uniform(0, 3))
    colour = grey(rng, 41, 66)
    paint(scene, cover * np.float32(rng.uniform(0.7, 1.0)), colour, tone)
    lit = stroked([border[: len(line)]], FRAME, int(rng.integers(1, 8)))
    lit *= smoothstep(noise(rng, SIDE, SIDE, (80, 80)), -0.8, 0.8) * inside
    sparkle = noise(rng, SIDE, SIDE, (2, 2)) * np.float32(9)
    paint(scene, lit * np.float32(rng.uniform(0.2, 0.9)), colour + rng.uniform(10, 40), sparkle)
    fringe = stroked(hairs(rng, border, 40, 6.0, 0.3), FRAME) * inside
    paint(scene, fringe * np.float32(rng.uniform(0.1, 0.5)), colour + 25)
    covered: Field = np.maximum(cover, lit)
    return covered


def filled_opening(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """Something behind the opening, out of focus: cloudy liquid, cork, cardboard, foam."""
    cover = opening(pose, OPENING - rng.uniform(0, 6))
    cover = blurred(cover, float(rng.uniform(0.8, 3)))
    kind = rng.random()
    if kind < 0.45:
        base = brown(rng, 88, 155)
    elif kind < 0.75:
        base = brown(rng, 62, 100)
    else:
        base = grey(rng, 50, 125)
    cell = rng.uniform(60, 220)
    cloud = fractal(rng, SIDE, SIDE, (cell, cell), int(rng.integers(1, 5)))
    tone = cloud * np.float32(float(base[0]) * rng.uniform(0.03, 0.18))
    if rng.random() < 0.5:
        wisps = np.maximum(0, 1 - 2.5 * np.abs(fractal(rng, SIDE, SIDE, (90, 90), 3)))
        tone += blurred(wisps, 4.0) * np.float32(rng.uniform(5, 45))
    alpha = np.full(FRAME, rng.uniform(0.6, 1.0), np.float32)
    if rng.random() < 0.45:
        alpha *= smoothstep(noise(rng, SIDE, SIDE, (260, 260)), -1.4, -0.3)
    alpha *= cover
    paint(scene, alpha, base, tone)
    return smoothstep(alpha, 0.05, 0.3)


def haze(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """Grease or powder on the glass: a pale, blotchy veil over part of the rim."""
    centre = somewhere(rng, pose, 195, 320)
    shape = filled(blob(rng, centre, rng.uniform(35, 120), 10, rng.uniform(0.4, 1.0)), FRAME)
    soft = blurred(shape, float(rng.uniform(4, 14)))
    blotches = fractal(rng, SIDE, SIDE, (12, 12), 3)
    veil = smoothstep(soft + 0.25 * blotches * soft, 0.25, 0.7)
    grain = noise(rng, SIDE, SIDE, (2, 2)) * np.float32(rng.uniform(2, 14))
    tint = grey(rng, 75, 170) if rng.random() < 0.75 else brown(rng, 80, 150)
    paint(scene, veil * np.float32(rng.uniform(0.2, 0.8)), tint, grain)
    return veil


def crumbs(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """One to six crumbs or flocks of dust, on the glass or in the opening."""
    total = np.zeros(FRAME, np.float32)
    middle = somewhere(rng, pose, 0, 320)
    for _ in range(rng.integers(1, 7)):
        centre = middle + rng.normal(0, 28, 2)
        outline = blob(rng, centre, rng.uniform(7, 36), 9, rng.uniform(0.4, 1.0))
        total = np.maximum(total, filled(outline, FRAME))
    soft = blurred(total, 2.0)
    total = smoothstep(soft + 0.2 * noise(rng, SIDE, SIDE, (4, 4)) * soft, 0.3, 0.65)
    tint = grey(rng, 55, 210) if rng.random() < 0.7 else brown(rng, 85, 170)
    relief = fractal(rng, SIDE, SIDE, (9, 9), 3)
    tone = (relief - np.roll(relief, (2, 2), (0, 1))) * np.float32(rng.uniform(8, 26))
    paint(scene, total * np.float32(rng.uniform(0.6, 1.0)), tint, tone)
    if rng.random() < 0.4:
        fibres = stroked(hairs(rng, circle(middle, 18), 12, 16.0, 0.4), FRAME)
        paint(scene, fibres * np.float32(rng.uniform(0.3, 0.8)), tint)
    return total
