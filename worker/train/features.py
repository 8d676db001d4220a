"""What the frozen backbone says of the training photos, computed once and kept.

The backbone takes nearly all the time and never changes, so head, domain and
calibration work on its cached output.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.inspect.backbone import CELLS, CHANNELS, pool
from worker.inspect.engines.protocol import Engine
from worker.inspect.good_features import GoodFeatures, pool_deviations
from worker.train.dataset import LabelledPhoto
from worker.train.progress import Progress, silent
from worker.train.render_parts import render_parts
from worker.train.stages import Stages
from worker.train.synthetic_defects import damage

COPIES = 8
"""The photo itself, and its seven turned and mirrored versions, each lit a little differently."""
GAIN = (0.93, 1.07)

SYNTHETIC = 480
"""Damaged versions of good photos that are wanted in all."""
MOST_SYNTHETIC = 12
"""Of one good photo."""

_PHOTOS_PER_PASS = 16


@dataclass(frozen=True)
class CachedFeatures:
    """Rows are photos, in the order that they were given."""

    maps: Tensor  # (N, COPIES, 1024, 8, 8), fp16; copy 0 is the photo as it is
    synthetic: Tensor
    """(N, S, 1024, 8, 8), fp16, each good photo with synthetic defects; zeros for defective photos.
    Version 0 lies and is lit as the photo is, the others as its copies are: nothing but the
    defects may tell damaged from good."""
    is_defective: Tensor  # (N,) bool

    @property
    def fingerprints(self) -> Tensor:
        """(N, 1024), of the photos as they are."""
        return _fingerprints(self.maps)

    @property
    def synthetic_fingerprints(self) -> Tensor:
        """(N, 1024), of the good photos as they are but for synthetic defects."""
        return _fingerprints(self.synthetic)


def _fingerprints(maps: Tensor) -> Tensor:
    """Of version 0 of each photo: (N, V, 1024, 8, 8) to (N, 1024)."""
    # Photo by photo: all of them in fp32 would take several times their memory.
    return torch.stack([pool(versions[:1].float())[0] for versions in maps])


@dataclass(frozen=True)
class Shown:
    """How photos are shown to a head."""

    copies: int
    """How many of the cached copies of each photo it is fitted to."""
    exponent: float
    """Of the mean over cells, see `pool_deviations`."""


@dataclass(frozen=True)
class PooledDeviations:
    """Photos held against good parts and pooled over all cells: what heads read."""

    photos: Tensor  # (N, K, 1024)
    synthetic: Tensor  # (N, S, 1024)
    is_defective: Tensor  # (N,) bool


def hold_against(
    features: CachedFeatures, rows: Tensor, good: GoodFeatures, *, shown: Shown
) -> PooledDeviations:
    """How far the photos of these rows are from good parts."""

    def pooled(maps: Tensor, versions: int | None) -> Tensor:
        # Photo by photo: all of them in fp32 would take several times their memory.
        return torch.stack(
            [
                pool_deviations(good.deviations(maps[row, :versions].float()), shown.exponent)
                for row in rows
            ]
        )

    # Where photos are only shown as they are, so are the damaged ones.
    return PooledDeviations(
        pooled(features.maps, shown.copies),
        pooled(features.synthetic, 1 if shown.copies == 1 else None),
        features.is_defective[rows],
    )


def cache_features(
    photos: Sequence[LabelledPhoto],
    engine: Engine,
    *,
    seed: int,
    stages: Stages,
    needs_synthetic: bool = True,
    progress: Progress = silent,
) -> CachedFeatures:
    """Run the backbone over every photo, its copies, and its damaged versions if it is good.

    Unless heads `needs_synthetic` defects there is one version of each, to be read only.
    """
    is_defective = torch.tensor([photo.is_defective for photo in photos])
    good = [index for index, photo in enumerate(photos) if not photo.is_defective]
    versions = min(MOST_SYNTHETIC, -(-SYNTHETIC // max(1, len(good)))) if needs_synthetic else 1
    passes = COPIES + versions

    def run(pictures: Iterator[NDArray[np.uint8]], count: int, number: int) -> Tensor:
        found: list[Tensor] = []
        steps = -(-count // _PHOTOS_PER_PASS)
        for step, batch in enumerate(pictures, start=1):
            found.append(engine.features(batch).half().cpu())
            progress("backbone", (number * steps + step) * 100 // (passes * steps), 100)
        return torch.cat(found)

    def copy_of(copy: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, copy])
        return {"maps": run(_laid(photos, copy, rng), len(photos), copy)}

    def version_of(version: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, COPIES + version])
        chosen = [photos[index].photo.pixels for index in good]
        rows = torch.zeros(len(photos), CHANNELS, CELLS, CELLS, dtype=torch.float16)
        rows[good] = run(_damaged(chosen, version, rng), len(good), COPIES + version)
        return {"maps": rows}

    copies = [stages.once(f"copy-{copy}", lambda c=copy: copy_of(c)) for copy in range(COPIES)]  # type: ignore[misc]
    damaged = [
        stages.once(f"synthetic-{version}", lambda v=version: version_of(v))  # type: ignore[misc]
        for version in range(versions)
    ]
    progress("backbone", 100, 100)
    return CachedFeatures(
        torch.stack([some["maps"] for some in copies], dim=1),
        torch.stack([some["maps"] for some in damaged], dim=1),
        is_defective,
    )


def _laid(
    photos: Sequence[LabelledPhoto], copy: int, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(photos), _PHOTOS_PER_PASS):
        batch = np.stack([p.photo.pixels for p in photos[first : first + _PHOTOS_PER_PASS]])
        yield as_copy(batch, copy, rng)


def as_copy(photos: NDArray[np.uint8], copy: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Photos (B, H, W, 3) as copy 0 to COPIES - 1 shows them to a head: 0 as they are."""
    return photos if copy == 0 else relit(turned(photos, copy), rng)


def _damaged(
    good: Sequence[NDArray[np.uint8]], version: int, rng: np.random.Generator
) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(good), _PHOTOS_PER_PASS):
        batch = [
            damage(rng, pixels, render_parts(rng, pixels.shape[0])).image
            for pixels in good[first : first + _PHOTOS_PER_PASS]
        ]
        yield as_copy(np.stack(batch), version % COPIES, rng)


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
