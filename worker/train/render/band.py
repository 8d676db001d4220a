"""The refracting ring: glowing amber streaks, the mould's seams that cut it, the lamp's glints."""

import numpy as np

from worker.train.render.fields import Field, fractal, ring_noise, smoothstep
from worker.train.render.strip import ANGLES, Strip

_LOW, _HIGH = 284, 338


def amber_band(rng: np.random.Generator, strip: Strip) -> None:
    """Paint the band, smooth on one side of the bottle and mottled on the other."""
    rows = _HIGH - _LOW
    radius = strip.rows(_LOW, _HIGH)
    outer = 323 + rng.normal(0, 1.5) + 1.6 * ring_noise(rng, ANGLES, 5)
    width = np.clip(17 + rng.normal(0, 3.0) + 3.0 * ring_noise(rng, ANGLES, 9), 5.0, 30.0)
    away = outer[None] - radius
    # 0 at the outer edge, 1 where the band ends on the inside.
    depth = away / width[None]
    streaks = fractal(rng, rows, ANGLES, (3.5, 70), 3, wraps=True)
    mottled = fractal(rng, rows, ANGLES, (6, 13), 3, wraps=True)
    seam, span = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 2.8)
    rough = strip.sector(seam, seam + span, 0.03) * rng.uniform(0.4, 1.1)
    rough = (rough + 0.25 * smoothstep(ring_noise(rng, ANGLES, 8), 0.2, 1.2))[None]
    ragged = 0.16 * streaks + 0.28 * rough * mottled
    cover = smoothstep(away, -0.8, 1.2) * (1.0 - smoothstep(depth + ragged, 0.45, 1.05))
    gaps = smoothstep(mottled + 0.5 * streaks + 0.9 * rough, 1.9, 3.0)
    present = np.clip(0.85 + 0.2 * ring_noise(rng, ANGLES, 12), 0.3, 1.0)[None]
    alpha = cover * (1.0 - 0.7 * gaps) * present * np.float32(rng.uniform(0.75, 1.0))
    red = rng.uniform(150, 190)
    amber = (red, red * rng.uniform(0.59, 0.68), red * rng.uniform(0.40, 0.50))
    _smoke(strip, depth, streaks)
    strip.paint(alpha, amber, _LOW)
    lively = 0.6 * streaks + (0.15 + 0.45 * rough) * mottled
    strip.glow(alpha * lively, (26, 18, 9), _LOW)
    _warm_glow(rng, strip, alpha, mottled)
    violet = rng.uniform(0.35, 0.9) + 0.25 * ring_noise(rng, ANGLES, 10)
    strip.line(outer + rng.uniform(2.0, 4.5), rng.uniform(0.6, 1.1), violet, (116, 108, 122))
    _seams(rng, strip, seam, span)


def _smoke(strip: Strip, depth: Field, streaks: Field) -> None:
    """Brown haze on the inner side of the band."""
    haze = smoothstep(depth, 0.2, 0.9) * (1.0 - smoothstep(depth, 1.2, 2.1))
    strip.paint(haze * smoothstep(streaks, -1.2, 1.8) * 0.6, (94, 69, 60), _LOW)


def _warm_glow(rng: np.random.Generator, strip: Strip, alpha: Field, mottled: Field) -> None:
    """On the lamp's side the band glows red and gold."""
    for degrees, spread, tint in (
        (275, 0.13, (70, 20, 0)),
        (243, 0.16, (40, 26, 8)),
        (344, 0.07, (85, 66, 12)),
        (165, 0.25, (34, 24, 14)),
    ):
        centre = np.radians(degrees) + strip.light + rng.normal(0, 0.1)
        gain = strip.bump(centre, spread)[None] * np.float32(rng.uniform(0.2, 1.2))
        strip.glow(alpha * gain * (0.7 + 0.3 * mottled), tint, _LOW)


def _seams(rng: np.random.Generator, strip: Strip, seam: float, span: float) -> None:
    """Where the mould's halves met: dark notches in the band, arcs that climb across it."""
    radius = strip.rows(292, 330)
    inside = smoothstep(radius, 296.0, 304.0) * (1 - smoothstep(radius, 322.0, 328.0))
    for centre in (seam + span, seam + span + np.pi + rng.normal(0, 0.15)):
        if rng.random() < 0.8:
            lean = (radius - 310) * np.float32(rng.normal(0, 0.0008))
            width = np.float32(rng.uniform(0.004, 0.014))
            notch = np.exp(-0.5 * ((strip.away(centre)[None] - lean) / width) ** 2) * inside
            strip.paint(notch * np.float32(rng.uniform(0.3, 0.85)), (46, 42, 50), 292)
    if rng.random() < 0.75:
        _arc(rng, strip, seam, mirrored=False)
    for _ in range(rng.poisson(0.7)):
        _arc(rng, strip, rng.uniform(0, 2 * np.pi), mirrored=rng.random() < 0.5)


def _arc(rng: np.random.Generator, strip: Strip, foot: float, *, mirrored: bool) -> None:
    """A hairline that leaves the neck's edge at angle `foot` and joins the outer edge."""
    length = rng.uniform(0.1, 0.4)
    away = strip.away(foot) * (-1 if mirrored else 1)
    t = np.clip(away / np.float32(length), 0.0, 1.0)
    bend = rng.uniform(0.4, 1.0)
    low, high = rng.uniform(288, 293), rng.uniform(322, 329)
    present = smoothstep(away, -0.004, 0.006) * (
        1.0 - smoothstep(away, length, length * rng.uniform(1.05, 1.6))
    )
    tone = rng.uniform(115, 175)
    strip.line((low + (high - low) * t**bend).astype(np.float32), rng.uniform(0.6, 1.0),
               present * rng.uniform(0.3, 0.95), (tone, tone * 0.97, tone))  # fmt: skip


def glints(rng: np.random.Generator, strip: Strip) -> None:
    """Reflexes of the lamp: a white one, golden ones, greenish streaks on the rough ring."""
    for degrees, radius, spread, tall, tint, chance in (
        (148, 309, 0.045, 7, (300, 315, 265), 0.92),
        (150, 276, 0.055, 2, (200, 215, 180), 0.65),
        (155, 337, 0.035, 5, (70, 68, 48), 0.4),
        (344, 316, 0.05, 5, (270, 215, 90), 0.85),
        (60, 258, 0.20, 4, (60, 76, 64), 0.85),
        (65, 247, 0.25, 8, (26, 34, 28), 0.7),
        (262, 318, 0.10, 4, (110, 50, 20), 0.5),
    ):
        if rng.random() < chance:
            strip.glint(rng, np.radians(degrees) + strip.light + rng.normal(0, 0.04),
                        radius + rng.normal(0, 2.5), spread * rng.uniform(0.4, 1.5),
                        tall * rng.uniform(0.4, 1.3),
                        _scaled(tint, rng.uniform(0.3, 1.4)))  # fmt: skip
    for _ in range(rng.poisson(1.5)):
        tint = (150, 145, 125) if rng.random() < 0.5 else (150, 112, 50)
        strip.glint(rng, rng.uniform(0, 2 * np.pi), rng.uniform(250, 324),
                    rng.uniform(0.004, 0.03), rng.uniform(0.8, 3.0),
                    _scaled(tint, rng.uniform(0.3, 1.3)))  # fmt: skip


def _scaled(colour: tuple[float, float, float], gain: float) -> tuple[float, float, float]:
    return colour[0] * gain, colour[1] * gain, colour[2] * gain
