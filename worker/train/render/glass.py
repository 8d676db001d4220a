"""The intact bottle: everything that belongs to a sound one, in the order of depth."""

import numpy as np

from worker.train.render import paint
from worker.train.render.band import amber_band, glints
from worker.train.render.fields import Field, as_field, noise, resized
from worker.train.render.geometry import Pose
from worker.train.render.nuisance import add_nuisance
from worker.train.render.rings import bare_rings, bore_edge, neck, rough_ring
from worker.train.render.strip import Strip


def intact_glass(rng: np.random.Generator) -> Strip:
    """A sound bottle's strip, with the small irregularities that sound bottles have."""
    # Usually the lamp hangs where it always hangs; now and then somebody has moved it.
    light = float(rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
    strip = bare_rings(rng, light)
    rough_ring(rng, strip)
    bore_edge(rng, strip)
    neck(rng, strip)
    amber_band(rng, strip)
    glints(rng, strip)
    add_nuisance(rng, strip)
    return strip


def add_depth_glow(rng: np.random.Generator, scene: Field, radius: Field, pose: Pose) -> None:
    """Light the bottom of the bottle faintly, seen through the opening."""
    side, reach = 56, 4 * 56
    y = np.arange(side, dtype=np.float32)[:, None] * 8 - np.float32(reach + rng.normal(0, 25))
    x = np.arange(side, dtype=np.float32)[None] * 8 - np.float32(reach + rng.normal(0, 25))
    distance = x * x + y * y
    glow = rng.uniform(3, 11) * np.exp(-0.5 * distance / rng.uniform(55, 105) ** 2)
    if rng.random() < 0.25:
        # The push-up of the bottom: a paler ring around a dark centre.
        glow -= rng.uniform(2, 8) * np.exp(-0.5 * distance / rng.uniform(10, 30) ** 2)
    glow = glow + 0.8 * noise(rng, side, side, (20, 20))
    tint = (1.0, rng.uniform(0.9, 1.1), rng.uniform(0.55, 0.9))
    left, top = round(pose.x) - reach, round(pose.y) - reach
    window = np.s_[top : top + 2 * reach, left : left + 2 * reach]
    wide = resized(as_field(glow), 2 * reach, 2 * reach)
    wide *= radius[window] < 192.0
    paint.glow(scene[window], wide, tint)
