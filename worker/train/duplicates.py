"""Photos that show the same part twice: encoded again, rescaled, relit, cropped, or a second frame.

All photos of a product look nearly alike, so what they share says nothing and is
taken away first: the mean photo, and how it changes when the part lies a little
differently. What is left is what tells one part from another. Two photos show
the same part if they differ in that by much less than two parts do.

A product whose parts differ by nothing but the camera's noise has no near-duplicates here.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.inspect.decode import Pixels
from worker.inspect.preprocess import SIDE
from worker.train.progress import Progress, silent

_Floats = NDArray[np.float32]

LIKENESS = 0.85
"""From here on two photos show the same part; 1 is identical, 0 as unlike as two parts.

Laid over each other, different parts reach 0.55 on MVTec bottle, 0.1 on rendered bottles, and on
MVTec grid 0.84 where `MAX_SHIFT` is lifted. Photos of these that were encoded again, scaled,
relit, made noisy or cropped stay above 0.85.
"""
MAX_SHIFT = 3.0
"""Pixels of 256 by which a copy may be cropped or shifted: a periodic part, laid a period
further on, would pass for the same one."""

_COARSE_SIDE = 64
_COARSE_SIGMA = 3.0
_COARSE_LIKENESS = 0.3
"""A crop of a hundredth of the side leaves 0.35 at this size, where nothing is aligned yet."""
_COARSELY_SAME = 0.95
"""Different parts reach 0.83 as they lie. Of a small photo, JPEG leaves little finer detail."""
_FINE_SIGMA = 1.5
_NEIGHBOURS = 4
"""Of each photo, so that time grows with the photos and not with their pairs."""
_NOISE = 4.0
"""Grey levels: contrast below this is no detail."""
_TYPICAL = 0.25
"""Quantile of the photos that says how much is a part's own. A photo counts as having no more:
else a defect that many parts share, such as a missing cap, would make them one part."""
_NOTHING = 1e-6
_ROWS = 512
_THREADS = 4
_ALIGNMENT_SIDE = 128
_ALIGNMENT_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)


def near_duplicates(a: Sequence[Pixels], b: Sequence[Pixels]) -> list[tuple[int, int]]:
    """(index in a, index in b) of photos that show the same part; sorted.

    a, b: prepared photos of one product, each (256, 256, 3) RGB. What parts have in
    common is learnt from all of them: below some ten photos it is guesswork.
    Of a photo with very many copies only the nearest are listed.
    """
    is_in_a = np.arange(len(a) + len(b)) < len(a)
    photos = [*a, *b]
    return [(i, j - len(a)) for i, j in _alike(photos, np.where(is_in_a, 0, 1), photos)]


def near_duplicates_within(
    photos: Sequence[Pixels], *, progress: Progress = silent
) -> list[tuple[int, int]]:
    """(i, j), i < j, as `near_duplicates`, of one set of photos: enough of them to join all photos
    of a part.
    """
    groups = np.arange(len(photos))
    found: list[tuple[int, int]] = []
    while True:
        # A part that was photographed many times counts once in what parts have in common.
        parts = [photos[first] for first in np.unique(groups, return_index=True)[1]]
        pairs = _alike(photos, groups, parts, progress)
        for i, j in pairs:
            groups[groups == groups[j]] = groups[i]
        found += pairs
        # The nearest of a photo may all be frames of its own burst: then it is asked again for the
        # nearest of other groups.
        if not pairs or np.bincount(groups).max() <= _NEIGHBOURS:
            return sorted(found)


def parts_of(photos: Sequence[Pixels], *, progress: Progress = silent) -> list[int]:
    """The part that each photo shows, by the index of one of its photos."""
    part_of = list(range(len(photos)))
    for i, j in near_duplicates_within(photos, progress=progress):
        joined, into = max(part_of[i], part_of[j]), min(part_of[i], part_of[j])
        part_of = [into if part == joined else part for part in part_of]
    return part_of


def _alike(
    photos: Sequence[Pixels],
    sides: NDArray[np.int_],
    parts: Sequence[Pixels],
    progress: Progress = silent,
) -> list[tuple[int, int]]:
    """Pairs whose `sides` differ. What the product shows in common is learnt from `parts`."""
    if len(photos) < 2:
        return []
    fine = _Product.of(parts, SIDE, _FINE_SIGMA)
    candidates = _candidates(photos, sides, _Product.of(parts, _COARSE_SIDE, _COARSE_SIGMA))

    def is_same(pair: tuple[int, int]) -> bool:
        return candidates[pair] >= _COARSELY_SAME or fine.is_same(*(photos[k] for k in pair))

    with ThreadPoolExecutor(_THREADS) as pool:
        pairs: list[tuple[int, int]] = []
        results = zip(candidates, pool.map(is_same, candidates), strict=True)
        for done, (pair, same) in enumerate(results, start=1):
            if same:
                pairs.append(pair)
            progress("comparing photos", done, len(candidates))
    return pairs


def _candidates(
    photos: Sequence[Pixels], sides: NDArray[np.int_], product: "_Product"
) -> dict[tuple[int, int], float]:
    """The few nearest of every photo and how alike they are, compared as they lie, coarsely."""
    own = np.stack([product.own(_grey(photo, _COARSE_SIDE)) for photo in photos])  # (N, 64 * 64)
    norms = (own**2).sum(axis=1)
    found: dict[tuple[int, int], float] = {}
    for first in range(0, len(photos), _ROWS):
        rows = slice(first, first + _ROWS)
        differences = norms[rows, None] + norms[None] - 2 * own[rows] @ own.T  # (rows, N)
        scale = np.sqrt(norms[rows, None] * norms[None]).clip(_NOTHING, product.typical)
        likeness = 1 - differences / (2 * scale)
        likeness[sides[rows, None] == sides[None]] = -np.inf
        nearest = np.argsort(-likeness, axis=1)[:, :_NEIGHBOURS]
        for row, others in enumerate(nearest):
            for other in others[likeness[row, others] >= _COARSE_LIKENESS]:
                i, j = sorted((first + row, int(other)))
                found[i, j] = float(likeness[row, other])
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Product:
    """What photos of a product share at one size and scale of detail."""

    side: int
    sigma: float
    mean: _Floats  # (side * side,)
    nuisances: _Floats  # (side * side, 8), orthonormal
    typical: float
    """Squared norm of what is a photo's own; see `_TYPICAL`."""

    @classmethod
    def of(cls, photos: Sequence[Pixels], side: int, sigma: float) -> "_Product":
        mean = np.zeros((side, side), np.float32)
        for photo in photos:
            mean += _detail(_grey(photo, side), sigma) / len(photos)
        product = cls(side, sigma, mean.ravel(), _nuisances(mean), typical=np.inf)
        norms = [float((product.own(_grey(photo, side)) ** 2).sum()) for photo in photos]
        return replace(product, typical=max(float(np.quantile(norms, _TYPICAL)), _NOTHING))

    def own(self, grey: _Floats) -> _Floats:
        """What the product does not explain of a photo (side, side): (side * side,)."""
        rest = _detail(grey, self.sigma).ravel() - self.mean
        return np.asarray(rest - self.nuisances @ (rest @ self.nuisances), np.float32)

    def is_same(self, one: Pixels, other: Pixels) -> bool:
        first, second = _grey(one, self.side), _grey(other, self.side)
        aligned = _aligned(first, second)
        if aligned is None:
            return False
        a, b = self.own(aligned), self.own(second)
        scale = min(float(np.linalg.norm(a) * np.linalg.norm(b)), self.typical)
        return bool(1 - ((a - b) ** 2).sum() / (2 * max(scale, _NOTHING)) >= LIKENESS)


def _grey(photo: Pixels, side: int) -> _Floats:
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32)


def _detail(grey: _Floats, sigma: float) -> _Floats:
    """Structure finer than sigma, as contrast against its surroundings: light cancels out."""
    high = grey - cv2.GaussianBlur(grey, (0, 0), sigma)
    contrast = np.sqrt(cv2.GaussianBlur(high * high, (0, 0), sigma) + _NOISE**2)
    return np.asarray(high / contrast, np.float32)


def _nuisances(mean: _Floats) -> _Floats:
    """Directions in which a photo changes when its part is moved, turned, scaled or relit a little.

    These are the tangents of Simard et al. (1993), at the mean photo.
    """
    half = len(mean) / 2
    y, x = np.mgrid[: len(mean), : len(mean)].astype(np.float32) - half
    dy, dx = np.gradient(mean)
    tangents = [mean, np.ones_like(mean), dx, dy, x * dx, y * dx, x * dy, y * dy]
    basis, _ = np.linalg.qr(np.stack([tangent.ravel() for tangent in tangents], axis=1))
    return np.asarray(basis, np.float32)


def _aligned(moved: _Floats, still: _Floats) -> _Floats | None:
    """`moved` laid over `still`; None where that takes more than `MAX_SHIFT`, or fails.

    By maximising their correlation (Evangelidis and Psarakis, 2008).
    """
    size = (_ALIGNMENT_SIDE, _ALIGNMENT_SIDE)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, found = cv2.findTransformECC(
            cv2.resize(still, size, interpolation=cv2.INTER_AREA),
            cv2.resize(moved, size, interpolation=cv2.INTER_AREA),
            start,
            cv2.MOTION_AFFINE,
            _ALIGNMENT_STEPS,
            np.ones(size, np.uint8),
            5,
        )
    except cv2.error:  # the two have nothing in common
        return None
    side = len(still)
    factor = side / _ALIGNMENT_SIDE
    transform = np.asarray(found, np.float64).copy()
    # Pixel k of the small picture is centred on (k + 1/2) * factor - 1/2 of the large one.
    middle = (factor - 1) / 2
    transform[:, 2] = factor * transform[:, 2] + middle - transform[:, :2] @ (middle, middle)
    corners = np.array([[x, y, 1] for x in (0, side) for y in (0, side)], np.float64)
    if np.abs(corners @ transform.T - corners[:, :2]).max() > MAX_SHIFT:
        return None
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(
        moved, transform, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(laid, np.float32)
