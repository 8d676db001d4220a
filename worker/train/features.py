"""What the frozen backbone says of the training photos, computed once and kept.

The backbone takes nearly all the time and never changes, so head, domain and
calibration work on its cached output.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.backbone import pool
from worker.inspect.engines.protocol import Engine
from worker.train.dataset import LabelledPhoto
from worker.train.progress import Progress, silent

COPIES = 8
"""The photo itself, and its seven turned and mirrored versions, each lit a little differently."""
GAIN = (0.93, 1.07)

_PHOTOS_PER_PASS = 16


@dataclass(frozen=True)
class CachedFeatures:
    """Rows are photos, in the order that they were given."""

    maps: Tensor  # (N, 1024, 8, 8), of the photos as they are
    fingerprints: Tensor  # (N, COPIES, 1024); copy 0 is the photo as it is
    is_defective: Tensor  # (N,) bool


def cache_features(
    photos: Sequence[LabelledPhoto], engine: Engine, *, seed: int, progress: Progress = silent
) -> CachedFeatures:
    """Run the backbone over every photo and its copies."""
    rng = np.random.default_rng(seed)
    maps: list[Tensor] = []
    by_copy: list[Tensor] = []
    passes = COPIES * -(-len(photos) // _PHOTOS_PER_PASS)
    for copy in range(COPIES):
        fingerprints: list[Tensor] = []
        for first in range(0, len(photos), _PHOTOS_PER_PASS):
            batch = np.stack([p.photo.pixels for p in photos[first : first + _PHOTOS_PER_PASS]])
            if copy > 0:
                batch = relit(turned(batch, copy), rng)
            some = engine.features(batch)
            fingerprints.append(pool(some))
            if copy == 0:
                maps.append(some)
            progress("backbone", copy * passes // COPIES + len(fingerprints), passes)
        by_copy.append(torch.cat(fingerprints))
    return CachedFeatures(
        torch.cat(maps),
        torch.stack(by_copy, dim=1),
        torch.tensor([photo.is_defective for photo in photos]),
    )


def turned(photos: NDArray[np.uint8], copy: int) -> NDArray[np.uint8]:
    """One of the eight ways to lay a square: (B, H, W, 3), 0 leaves it as it is."""
    quarter_turns, is_mirrored = copy % 4, copy >= 4
    laid = np.rot90(photos, quarter_turns, axes=(1, 2))
    return np.ascontiguousarray(laid[:, :, ::-1] if is_mirrored else laid)


def relit(photos: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each photo a little brighter or darker: (B, H, W, 3)."""
    gains = rng.uniform(*GAIN, size=(len(photos), 1, 1, 1))
    lit: NDArray[np.uint8] = np.clip(np.rint(photos * gains), 0, 255).astype(np.uint8)
    return lit
