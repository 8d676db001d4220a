"""Whether the maps point at the defect: held against masks that people have drawn.

Masks lie where MVTec has them: DATA/ground_truth/<type>/<photo's stem>_mask.png, also those of
photos under train/, as `defectscope export` writes them.
Pixels of one photo are not independent of each other, so intervals come from
drawing whole photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import DefectScopeError, UnusableData
from shared.intervals import exact
from worker.inspect.decode import decode
from worker.inspect.overlay import scale
from worker.inspect.preprocess import SIDE, resize
from worker.train.checks import MAX_STRETCH
from worker.train.dataset import GOOD, SPLITS, TEST, is_photo
from worker.train.intervals import percentile, resample
from worker.train.judged import Flags, Floats, JudgedPhoto, Maps

MAX_FALSE_POSITIVE_RATE = 0.3
"""AUPRO is integrated up to here (Bergmann et al. 2021), and divided by it."""

_VALUES = 1 << 16
_BINS = 1024
_BLUE = 1 / 3
"""The lowest third of the colour scale is blue."""


def mask_file(photo: Path) -> Path | None:
    """Where the mask of DATA/test/<type>/<stem>.png or DATA/train/<type>/<stem>.png would be.

    Good photos have none. If both have a photo of that name, the mask is of the one under test/.
    """
    label, split = photo.parent.name, photo.parent.parent.name
    data = photo.parent.parent.parent
    if label == GOOD or split not in SPLITS:
        return None
    if split != TEST and any(
        other.stem == photo.stem for other in (data / TEST / label).glob("*.*") if is_photo(other)
    ):
        return None
    return data / "ground_truth" / label / f"{photo.stem}_mask.png"


def read_mask(file: Path, photo: Path) -> Flags:
    """(256, 256): the mask, shrunk as its photo was; half covered counts, transparent does not.

    Of a defect too thin for that the best covered pixels stay. Raises UnusableData for a file that
    cannot be read, marks nothing, or has another shape than the photo, if that can be read.
    """
    try:
        data = file.read_bytes()
        drawn = decode(data)
    except OSError as error:
        raise UnusableData(f"{file} cannot be read: {error.strerror}.") from error
    except DefectScopeError as error:
        raise UnusableData(f"{file} is no mask: {error} Repair or remove it.") from error
    is_marked = drawn.any(axis=2) & _is_opaque(data)
    marked = np.where(is_marked, np.uint8(255), np.uint8(0))  # (H, W)
    if not marked.any():
        raise UnusableData(f"{file} marks no defect: draw it in white, or remove the file.")
    _check_shape(file, marked, photo)
    covered = resize(marked)  # (256, 256)
    if not covered.any():  # a speck on a huge photo: averaged away
        rows, columns = np.nonzero(marked)
        covered[rows * SIDE // marked.shape[0], columns * SIDE // marked.shape[1]] = 255
    return np.asarray(covered >= min(128, int(covered.max())), np.bool_)


def _check_shape(file: Path, marked: NDArray[np.uint8], photo: Path) -> None:
    try:
        photo_height, photo_width = decode(photo.read_bytes()).shape[:2]
    except (OSError, DefectScopeError):
        return  # whoever judges the photo names it
    height, width = marked.shape
    stretch = width * photo_height / (height * photo_width)
    if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
        raise UnusableData(
            f"{file} is {width} x {height} pixels and its photo {photo_width} x {photo_height}, "
            "another shape: draw it on the whole photo, or remove the file."
        )


def _is_opaque(data: bytes) -> Flags | np.bool_:
    """(H, W), or True for a picture without transparency: `decode` lays that over white."""
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.ndim != 3 or samples.shape[2] != 4:
        return np.True_
    return np.asarray(samples[..., 3] > 0, np.bool_)


def read_masks(photos: Sequence[Path]) -> tuple[dict[Path, Flags], list[str]]:
    """The masks that there are of these photos, and what is wrong with the others."""
    masks: dict[Path, Flags] = {}
    problems: list[str] = []
    for photo in photos:
        file = mask_file(photo)
        try:
            if file is not None and file.is_file():
                masks[photo] = read_mask(file, photo)
        except UnusableData as error:
            problems.append(f"- {error}")
    return masks, problems


def localisation(photos: Sequence[JudgedPhoto], *, seed: int, resamples: int) -> dict[str, Any]:
    """How well the maps point, as figures and their intervals; photos without maps are left out.

    `gradcam`: pointing game of the strongest cell of 8 x 8 over defects that the
    classifier called. `anomaly_map`: pixel AUROC and AUPRO over all pixels of
    good photos and of masked defects, pointing game over all masked defects.
    `by_chance`: what a cell or pixel chosen blindly would hit.
    """
    mapped = [(photo, photo.maps) for photo in photos if photo.maps is not None]
    good = [maps for photo, maps in mapped if not photo.is_defective]
    masked = [(photo, maps) for photo, maps in mapped if maps.mask is not None]
    detected = [maps for photo, maps in masked if photo.outcome.is_defective]
    everywhere = [maps for _, maps in masked]
    pixels, pixel_intervals = _pixels(everywhere, good, seed=seed, resamples=resamples)
    gradcam, gradcam_intervals = _pointing([_gradcam_hit(maps) for maps in detected])
    of_all, of_all_intervals = _pointing([_gradcam_hit(maps) for maps in everywhere])
    anomaly, anomaly_intervals = _pointing([_anomaly_hit(maps) for maps in everywhere])
    blue, blue_intervals = _blue(good)
    return {
        "defects_with_mask": len(masked),
        "defects_without_mask": sum(p.is_defective for p, _ in mapped) - len(masked),
        "detected": len(detected),
        "gradcam": {
            **gradcam,
            "within_one_cell_of_all": of_all["within_one_cell"],
        },
        "anomaly_map": {**pixels, **anomaly},
        "by_chance": _by_chance(everywhere),
        "good_parts_blue": blue,
        "intervals": {
            "gradcam": {
                **gradcam_intervals,
                "within_one_cell_of_all": of_all_intervals["within_one_cell"],
            },
            "anomaly_map": {**pixel_intervals, **anomaly_intervals},
            "good_parts_blue": blue_intervals,
        },
    }


@dataclass(frozen=True)
class _Hit:
    inside: bool
    """In the mask; of a Grad-CAM cell: it has a part of the mask in it."""
    within_one_cell: bool
    """In the mask, or in one of the eight cells of 32 x 32 pixels around it."""


def _gradcam_hit(maps: Maps) -> _Hit:
    cells = _cells(maps)
    if maps.attention.max() <= 0:  # nothing speaks for a defect: it points nowhere
        return _Hit(inside=False, within_one_cell=False)
    place = np.unravel_index(int(maps.attention.argmax()), maps.attention.shape)
    return _Hit(bool(cells[place]), bool(_grown(cells)[place]))


def _anomaly_hit(maps: Maps) -> _Hit:
    mask = _mask(maps)
    row, column = np.unravel_index(int(maps.strangeness.argmax()), maps.strangeness.shape)
    cell = SIDE // maps.attention.shape[0]
    near = _grown(_cells(maps))[row // cell, column // cell]
    return _Hit(bool(mask[row, column]), bool(near))


def _mask(maps: Maps) -> Flags:
    return maps.mask if maps.mask is not None else np.zeros((SIDE, SIDE), np.bool_)


def _cells(maps: Maps) -> Flags:
    """The cells of the Grad-CAM (8, 8) that have a part of the mask in them."""
    rows, columns = maps.attention.shape
    blocks = _mask(maps).reshape(rows, SIDE // rows, columns, SIDE // columns)
    return np.asarray(blocks.any(axis=(1, 3)), np.bool_)


def _grown(cells: Flags) -> Flags:
    return np.asarray(cv2.dilate(cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)


def _by_chance(masked: Sequence[Maps]) -> dict[str, float | None]:
    """What a pixel or a cell chosen blindly would hit."""
    if not masked:
        return dict.fromkeys(("pixel_inside", "cell_inside", "within_one_cell"))
    cells = [_cells(maps) for maps in masked]
    return {
        "pixel_inside": float(np.mean([_mask(maps).mean() for maps in masked])),
        "cell_inside": float(np.mean([cell.mean() for cell in cells])),
        "within_one_cell": float(np.mean([_grown(cell).mean() for cell in cells])),
    }


def _pointing(hits: Sequence[_Hit]) -> tuple[dict[str, Any], dict[str, Any]]:
    counts = {
        "inside": sum(hit.inside for hit in hits),
        "within_one_cell": sum(hit.within_one_cell for hit in hits),
    }
    shares = {name: count / len(hits) if hits else None for name, count in counts.items()}
    return shares, {name: exact(count, len(hits)) for name, count in counts.items()}


def _blue(good: Sequence[Maps]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The share of good photos whose drawn map stays in the blue third all over."""
    stay = {"gradcam": 0, "anomaly_map": 0}
    for maps in good:
        limits = maps.limits
        strangeness = maps.strangeness.astype(np.float32)
        drawn = {
            "gradcam": scale(maps.attention, 0.0, limits.gradcam_high),
            "anomaly_map": scale(strangeness, limits.anomaly_low, limits.anomaly_high),
        }
        for name, heat in drawn.items():
            stay[name] += bool(heat.max() < _BLUE)
    shares = {name: count / len(good) if good else None for name, count in stay.items()}
    return shares, {name: exact(count, len(good)) for name, count in stay.items()}


def _pixels(
    masked: Sequence[Maps], good: Sequence[Maps], *, seed: int, resamples: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pixel AUROC and AUPRO, exact for float16; intervals on a grid of some 1,000 values."""
    if not masked:
        return {"pixel_auroc": None, "aupro": None}, {"pixel_auroc": None, "aupro": None}
    photos = [*masked, *good]
    sound, inside, overlap = (np.zeros(_VALUES) for _ in range(3))
    for maps in photos:
        counted = _counted(maps)
        sound += counted.sound
        inside += counted.inside
        overlap += counted.overlap
    if not sound.any():  # one photo, and all of it is marked
        return {"pixel_auroc": None, "aupro": None}, {"pixel_auroc": None, "aupro": None}
    figures = {
        "pixel_auroc": float(_area(sound[None], inside[None])[0]),
        "aupro": float(_area(sound[None], overlap[None], up_to=MAX_FALSE_POSITIVE_RATE)[0]),
    }

    # The same curve on a grid: no step holds more than a thousandth of the sound pixels.
    steps = np.minimum((np.cumsum(sound) / sound.sum() * _BINS).astype(np.int64), _BINS - 1)
    by_photo = np.zeros((3, len(photos), _BINS))
    for number, maps in enumerate(photos):
        counted = _counted(maps)
        for kind, counts in enumerate((counted.sound, counted.inside, counted.overlap)):
            by_photo[kind, number] = np.bincount(steps, counts, minlength=_BINS)
    is_masked = np.arange(len(photos)) < len(masked)
    drawn = resample(is_masked, seed=seed, resamples=resamples).counts
    sound, inside, overlap = (drawn @ counts for counts in by_photo)
    return figures, {
        "pixel_auroc": percentile(_area(sound, inside)),
        "aupro": percentile(_area(sound, overlap, up_to=MAX_FALSE_POSITIVE_RATE)),
    }


@dataclass(frozen=True)
class _Counted:
    """Pixels of one photo by value, strangest first, each (65536,)."""

    sound: Floats
    """Pixels outside the mask."""
    inside: Floats
    """Pixels inside the mask."""
    overlap: Floats
    """Pixels inside the mask, each by its share of its own region: a small defect counts as
    much as a large one."""


def _counted(maps: Maps) -> _Counted:
    places = _places(maps.strangeness)
    mask = _mask(maps)
    regions, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    shares = np.zeros(regions)
    shares[1:] = 1 / stats[1:, cv2.CC_STAT_AREA]  # 0 is the background
    return _Counted(
        np.bincount(places[~mask], minlength=_VALUES).astype(np.float64),
        np.bincount(places[mask], minlength=_VALUES).astype(np.float64),
        np.bincount(places[mask], shares[labels[mask]], minlength=_VALUES).astype(np.float64),
    )


def _places(values: NDArray[np.float16]) -> NDArray[np.int64]:
    """The place of each value among all that float16 has, the largest first."""
    # Adding 0 makes -0 a 0: the two are equal and must have one place.
    bits = (values + np.float16(0)).view(np.uint16).astype(np.int64)
    ascending = np.where(bits & 0x8000, 0xFFFF - bits, bits | 0x8000)
    return np.asarray(_VALUES - 1 - ascending, np.int64)


def _area(sound: Floats, found: Floats, *, up_to: float = 1.0) -> Floats:
    """Area under found (y) against sound (x), both counted (R, V) strangest first, over up_to.

    Trapezoids; the one in which x passes `up_to` is cut there. Returns (R,).
    """
    x = np.cumsum(sound, axis=1) / sound.sum(axis=1, keepdims=True)
    y = np.cumsum(found, axis=1) / found.sum(axis=1, keepdims=True)
    x, y = (np.pad(curve, ((0, 0), (1, 0))) for curve in (x, y))
    left, right = np.minimum(x[:, :-1], up_to), np.minimum(x[:, 1:], up_to)
    width = np.diff(x, axis=1)
    share = np.divide(right - left, width, out=np.zeros_like(width), where=width > 0)
    end = y[:, :-1] + np.diff(y, axis=1) * share
    area: Floats = ((right - left) * (y[:, :-1] + end) / 2).sum(axis=1)
    return area / up_to
