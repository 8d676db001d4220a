"""What sound glass shows too: dust, sparkling points, scratches, smears.

Without them a detector would learn that anything bright is damage.
"""

import cv2
import numpy as np

from worker.train.render.fields import noise
from worker.train.render.strip import ANGLES, FIRST, ROWS, Strip


def add_nuisance(rng: np.random.Generator, strip: Strip) -> None:
    """Draw a bottle's harmless blemishes into its strip."""
    _dust(rng, strip)
    for _ in range(rng.poisson(1.5)):
        _scratch(rng, strip)
    if rng.random() < 0.3:
        smear = noise(rng, ROWS, ANGLES, (60, 200), wraps=True)
        strip.glow(np.maximum(smear, 0.0) * np.float32(rng.uniform(0.5, 2.5)), (1, 1, 1), FIRST)


def _dust(rng: np.random.Generator, strip: Strip) -> None:
    """Points of light, alone and in loose groups along the glass."""
    points = [(rng.uniform(205, 345), rng.uniform(0, ANGLES)) for _ in range(rng.poisson(25))]
    for _ in range(rng.poisson(0.6)):
        radius, column = rng.uniform(215, 330), rng.uniform(0, ANGLES)
        wide, tall = rng.uniform(10, 120), rng.uniform(2, 12)
        points += [
            (radius + rng.normal(0, tall), column + rng.normal(0, wide))
            for _ in range(rng.integers(4, 30))
        ]
    for radius, column in points:
        row, start = int(np.clip(radius, 200, 400)) - FIRST, int(column) % (ANGLES - 2)
        glow = np.float32(rng.exponential(20.0))
        strip.colour[row, start : start + 2] += glow
        strip.colour[row + 1, start] += glow * np.float32(0.6)


def _scratch(rng: np.random.Generator, strip: Strip) -> None:
    """A fine pale line, along the glass or across it."""
    start = np.array([rng.uniform(0, ANGLES), rng.uniform(240, 330) - FIRST])
    if rng.random() < 0.35:
        along, across = rng.normal(0, 3), rng.uniform(6, 25)
    else:
        along = rng.uniform(15, 80)
        across = rng.normal(0, along * 0.2)
    end = start + np.array([along, across])
    handle = (start + end) / 2 + rng.normal(0, 3, 2)
    t = np.linspace(0, 1, 12)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * handle + t**2 * end
    low = int(max(points[:, 1].min() - 3, 0))
    high = int(min(points[:, 1].max() + 4, ROWS))
    canvas = np.zeros((high - low, ANGLES), np.uint8)
    fixed = np.round((points - [0, low]) * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 255, 1, cv2.LINE_AA, 4)
    tone = rng.uniform(110, 180)
    alpha = canvas.astype(np.float32) * np.float32(rng.uniform(0.15, 0.8) / 255)
    strip.paint(alpha, (tone, tone * 0.98, tone), low + FIRST)
