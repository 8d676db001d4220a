"""Crushed glass: the white, gold and brown clusters where a blow fell, and glass dust."""

import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field, blurred, fractal, noise, smoothstep

# From crease to highlight: brown shadow, gold, cream, white.
_PALETTE_AT = np.array([0.0, 0.35, 0.65, 0.85, 1.0])
_PALETTE = np.array(
    [[52, 46, 44], [120, 100, 74], [186, 166, 122], [240, 232, 202], [268, 268, 250]], np.float32
)
_PALE_PALETTE = np.array(
    [[48, 48, 54], [96, 96, 96], [168, 166, 156], [238, 236, 222], [268, 268, 262]], np.float32
)


def add_crushed_glass(
    rng: np.random.Generator,
    patch: Field,
    impact: NDArray[np.float32],
    solid: Field,
    size: float,
) -> None:
    """Pile crushed glass up around the points of impact (K, 2); `size` is the break's, in pixels.

    Some breaks have none, most one or two clusters.
    """
    clusters = int(rng.choice(len(impact) + 1, p=(0.12, 0.38, 0.35, 0.15)))
    for x, y in impact[:clusters]:
        reach = float(np.clip(rng.lognormal(np.log(0.17 * size + 4), 0.45), 4, 48))
        _cluster(rng, patch, float(x), float(y), reach, solid)
    if rng.random() < 0.05:
        _iridescence(rng, patch, impact[0], solid, size)


def _cluster(
    rng: np.random.Generator, patch: Field, x: float, y: float, reach: float, solid: Field
) -> None:
    margin = int(reach * 2.2) + 3
    low_x, high_x = max(int(x) - margin, 0), min(int(x) + margin, patch.shape[1])
    low_y, high_y = max(int(y) - margin, 0), min(int(y) + margin, patch.shape[0])
    rows, columns = high_y - low_y, high_x - low_x
    if rows < 4 or columns < 4:
        return
    v = (np.arange(low_y, high_y, dtype=np.float32)[:, None] - y) / np.float32(reach)
    u = (np.arange(low_x, high_x, dtype=np.float32)[None] - x) / np.float32(reach)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    distance = (c * u + s * v) ** 2 + ((c * v - s * u) / np.float32(flat)) ** 2
    clumps = fractal(rng, rows, columns, (reach * 0.7, reach * 0.7), 3)
    body = 1.0 - distance + 0.4 * clumps
    alpha = smoothstep(body, 0.15, 0.4)
    # Single flakes lie around it.
    flakes = noise(rng, rows, columns, (2.5, 2.5))
    single = smoothstep(flakes - 0.45 * distance, 0.9, 1.6)
    alpha = np.maximum(alpha, single)
    # It lies on the broken glass, and hardly ever beside it.
    window = np.s_[low_y:high_y, low_x:high_x]
    alpha = alpha * blurred(solid, 1.2)[window]
    grain = max(2.0, reach * 0.1)
    fine = fractal(rng, rows, columns, (grain, grain * rng.uniform(1.0, 3.0)), 2)
    folds = fractal(rng, rows, columns, (3.0 * grain, 3.0 * grain), 2)
    creases = np.maximum(0.0, 1.0 - 2.5 * np.abs(folds))
    core = rng.uniform(0.35, 0.85)
    light = core + 0.3 * (body - 0.6) + 0.2 * fine + 0.12 * clumps - 0.22 * creases
    light = np.maximum(light, 0.7 * single)
    light = np.clip(light * np.float32(rng.uniform(0.75, 1.2)), 0.0, 1.0)
    palette = _PALETTE if rng.random() < 0.55 else _PALE_PALETTE
    colour = np.stack([np.interp(light, _PALETTE_AT, palette[:, k]) for k in range(3)], -1)
    area = patch[window]
    area += alpha[..., None] * (colour.astype(np.float32) - area)


def _iridescence(
    rng: np.random.Generator, patch: Field, centre: NDArray[np.float32], solid: Field, size: float
) -> None:
    """Thin-film colours in fine stripes on a flake that stands off the surface."""
    height, width = solid.shape
    reach = min(0.18 * size + 6, 26.0)
    at = centre + rng.normal(0, 0.2 * size, 2)
    v = np.arange(height, dtype=np.float32)[:, None] - np.float32(at[1])
    u = np.arange(width, dtype=np.float32)[None] - np.float32(at[0])
    turn = rng.uniform(0, np.pi)
    phase = (u * np.float32(np.cos(turn)) + v * np.float32(np.sin(turn))) / reach
    phase = phase * np.float32(rng.uniform(8, 20)) + noise(rng, height, width, (reach, reach))
    inside = smoothstep(1.0 - (u * u + v * v) / reach**2 + 0.3 * np.sin(phase / 3), 0.1, 0.4)
    stripes = np.stack([np.sin(phase + shift) for shift in (0.0, 2.1, 4.2)], -1)
    patch += (inside * solid * np.float32(rng.uniform(6, 22)))[..., None] * (stripes + 0.8)


def add_splinters(rng: np.random.Generator, grey: Field, solid: Field, deep: Field) -> None:
    """Glass dust on the fracture: points and specks of light, in clouds."""
    height, width = solid.shape
    density = float(rng.lognormal(np.log(0.008), 1.0))
    count = min(int(rng.poisson(height * width * density)), 2500)
    canvas = np.zeros((height, width), np.float32)
    ys, xs = rng.integers(1, height - 2, count), rng.integers(1, width - 2, count)
    glow = rng.exponential(0.25, count).astype(np.float32)
    np.maximum.at(canvas, (ys, xs), glow)
    large = glow > 0.4
    np.maximum.at(canvas, (ys[large], xs[large] + 1), glow[large] * np.float32(0.8))
    np.maximum.at(canvas, (ys[large] + 1, xs[large]), glow[large] * np.float32(0.6))
    clouds = smoothstep(noise(rng, height, width, (50, 50)), -0.8, 1.2)
    canvas *= clouds * (1.0 - 0.7 * deep)
    grey += canvas * np.float32(145.0)
