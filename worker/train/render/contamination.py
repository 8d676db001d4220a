"""Foreign material in or on the bottle: which kinds there are, and how often each."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worker.train.render import hard_matter, soft_matter
from worker.train.render.fields import Field
from worker.train.render.geometry import Pose

_Kind = Callable[[np.random.Generator, Field, Pose], Field]

_KINDS: tuple[tuple[_Kind, float], ...] = (
    (soft_matter.felt, 0.20),
    (soft_matter.ribbon, 0.10),
    (soft_matter.filled_opening, 0.14),
    (soft_matter.haze, 0.06),
    (soft_matter.crumbs, 0.08),
    (hard_matter.clip, 0.14),
    (hard_matter.disc, 0.10),
    (hard_matter.thread, 0.07),
    (hard_matter.cord, 0.05),
    (hard_matter.tube, 0.04),
    (hard_matter.drops, 0.02),
)
_SHARES = np.array([share for _, share in _KINDS]) / sum(share for _, share in _KINDS)


_FAINTEST = 3.5
"""Mean change in grey values below which nobody could tell that anything is there."""
_SMALLEST = 80
"""Pixels of a 900 px photo."""


def contaminate(rng: np.random.Generator, scene: Field, pose: Pose) -> NDArray[np.bool_]:
    """Put one piece of foreign material into `scene`; returns its pixels (SIDE, SIDE).

    May be hard to see, but never invisible: what turns out too faint is drawn anew.
    """
    clean = scene.copy()
    while True:
        kind = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))][0]
        mask: NDArray[np.bool_] = kind(rng, scene, pose) >= 0.5
        change = np.abs(scene[mask] - clean[mask])
        if len(change) >= _SMALLEST and change.mean() >= _FAINTEST:
            return mask
        scene[:] = clean
