"""What the backbone is pretrained on: rendered products, sound and damaged, many views of each.

A batch holds a few products with many views each, because that is what the backbone is for: to
tell the damaged views of one product from its sound ones, whatever the product.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.inspect.preprocess import SIDE
from worker.train.progress import Progress, silent
from worker.train.render import LABELS, render_bottle
from worker.train.render_parts import render_parts
from worker.train.synthetic_defects import KINDS, Pixels, damage

PRODUCTS = 4
VIEWS = 16
"""Of each product in a batch; every other one is damaged."""
VIEW_SIDE = 128
CELL_SIDES = (8, 16, 32)
"""Of the maps after the second, the third and the last dense block; in pixels."""
BOTTLE_SHARE = 0.25
TONED_SHARE = 0.5
"""Of the products that are shown by another tone curve: what is faint on a dark part counts too."""
BOTTLES = 384
"""Rendered beforehand, because one takes an eighth of a second."""

RENDERED = len(KINDS)
"""Kind of the defects that the bottle renderer itself draws."""

_Flags = NDArray[np.bool_]
_View = tuple[Pixels, _Flags, int]


@dataclass(frozen=True)
class Views:
    """One batch: PRODUCTS x VIEWS pictures, product by product."""

    pictures: Pixels  # (B, 128, 128, 3)
    covers: tuple[NDArray[np.float32], ...]
    """(B, h, w) for each of CELL_SIDES: how much of each cell is defective, in [0, 1]."""
    kinds: NDArray[np.int64]  # (B,), kind of defect, -1 for sound views


class Bottles:
    """A stock of rendered bottles: sound ones, and damaged ones with their masks."""

    def __init__(self, seed: int, progress: Progress = silent, *, count: int = BOTTLES) -> None:
        rng = np.random.default_rng([seed, 1])
        self.sound: list[Pixels] = []
        self.damaged: list[tuple[Pixels, _Flags]] = []
        for number in range(count):
            if number % 2:
                label = LABELS[1 + (number // 2) % (len(LABELS) - 1)]
                bottle = render_bottle(rng, label, SIDE)
                self.damaged.append((bottle.image, bottle.mask))
            else:
                self.sound.append(render_bottle(rng, LABELS[0], SIDE).image)
            progress("rendering bottles", number + 1, count)


def draw_views(seed: int, number: int, bottles: Bottles) -> Views:
    """Batch `number` of a pretraining: the same whenever it is drawn."""
    rng = np.random.default_rng([seed, 2, number])
    donors = [render_parts(rng, SIDE) for _ in range(PRODUCTS)]
    drawn = [
        _bottle_views(rng, bottles, donor)
        if rng.random() < BOTTLE_SHARE
        else _part_views(rng, donor)
        for donor in donors
    ]
    tones = np.random.default_rng([seed, 3, number])
    views = [view for product in drawn for view in _toned(tones, product)]
    return Views(
        np.stack([picture for picture, _, _ in views]),
        tuple(np.stack([cover_of(mask, side) for _, mask, _ in views]) for side in CELL_SIDES),
        np.array([kind for _, _, kind in views]),
    )


def _part_views(rng: np.random.Generator, donor: Pixels) -> list[_View]:
    """Views of one part or material: near, far, or from anywhere on it."""
    part = render_parts(rng, SIDE)
    aim = str(rng.choice(("whole", "place", "anywhere")))
    jitter = float(rng.choice((0.0, 1.0, 4.0)))
    corner = rng.uniform(0, SIDE - VIEW_SIDE, 2)
    views: list[_View] = []
    for number in range(VIEWS):
        if aim == "anywhere":
            corner = rng.uniform(0, SIDE - VIEW_SIDE, 2)
        picture = _posed(rng, part, jitter)
        if aim == "anywhere":
            picture = np.ascontiguousarray(np.rot90(picture, int(rng.integers(4))))
        views.append(_view(rng, picture, donor, number, None if aim == "whole" else corner))
    return views


def _bottle_views(rng: np.random.Generator, bottles: Bottles, donor: Pixels) -> list[_View]:
    """Views of different bottles; half of the damage is the renderer's own."""
    is_whole = rng.random() < 0.4
    corner = rng.uniform(0, SIDE - VIEW_SIDE, 2)
    views: list[_View] = []
    for number in range(VIEWS):
        if number % 2 and rng.random() < 0.5:
            picture, mask = bottles.damaged[int(rng.integers(len(bottles.damaged)))]
            cut = None if is_whole else _around(rng, mask)
            views.append((_lit(rng, _cut(picture, cut)), _cut_mask(mask, cut), RENDERED))
        else:
            picture = bottles.sound[int(rng.integers(len(bottles.sound)))]
            turned = np.ascontiguousarray(np.rot90(picture, int(rng.integers(4))))
            views.append(_view(rng, turned, donor, number, None if is_whole else corner))
    return views


def _view(
    rng: np.random.Generator,
    picture: Pixels,
    donor: Pixels,
    number: int,
    corner: NDArray[np.float64] | None,
) -> _View:
    """One view: odd numbers are damaged, within what the view shows."""
    sound = np.zeros((VIEW_SIDE, VIEW_SIDE), np.bool_)
    if number % 2 == 0:
        return _lit(rng, _cut(picture, corner)), sound, -1
    if corner is None:
        damaged = damage(rng, picture, donor)
        return (
            _lit(rng, _cut(damaged.image, None)),
            _cut_mask(damaged.mask, None),
            KINDS.index(damaged.kind),
        )
    damaged = damage(rng, _cut(picture, corner), _cut(donor, corner), largest=0.6)
    return _lit(rng, damaged.image), damaged.mask, KINDS.index(damaged.kind)


def _toned(rng: np.random.Generator, views: list[_View]) -> list[_View]:
    """A product's views by the tone curve of another camera or light, or as they are."""
    if rng.random() >= TONED_SHARE:
        return views
    curve = np.linspace(0, 1, 256) ** np.exp(rng.uniform(-0.9, 0.9))
    black, white = rng.uniform(0, 0.25), rng.uniform(0.75, 1)
    if rng.random() < 0.5:
        curve = black + (white - black) * curve
    levels = np.rint(255 * curve).astype(np.uint8)
    return [(levels[picture], mask, kind) for picture, mask, kind in views]


def _around(rng: np.random.Generator, mask: _Flags) -> NDArray[np.float64]:
    """The corner of a cut that shows some pixel of the defect."""
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return rng.uniform(0, SIDE - VIEW_SIDE, 2)
    chosen = int(rng.integers(len(rows)))
    place = np.array([columns[chosen], rows[chosen]]) - rng.uniform(8, VIEW_SIDE - 8, 2)
    return np.clip(place, 0, SIDE - VIEW_SIDE)


def _cut(picture: Pixels, corner: NDArray[np.float64] | None) -> Pixels:
    if corner is None:
        size = (VIEW_SIDE, VIEW_SIDE)
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    x, y = (int(k) for k in corner)
    return np.ascontiguousarray(picture[y : y + VIEW_SIDE, x : x + VIEW_SIDE])


def _cut_mask(mask: _Flags, corner: NDArray[np.float64] | None) -> _Flags:
    if corner is not None:
        x, y = (int(k) for k in corner)
        return mask[y : y + VIEW_SIDE, x : x + VIEW_SIDE]
    half = mask.reshape(VIEW_SIDE, 2, VIEW_SIDE, 2).any(axis=(1, 3))
    return np.asarray(half, np.bool_)


def _posed(rng: np.random.Generator, picture: Pixels, jitter: float) -> Pixels:
    """The part as the next one lies: shifted and turned a little."""
    if jitter == 0:
        return picture
    middle = (SIDE / 2, SIDE / 2)
    matrix = cv2.getRotationMatrix2D(middle, float(rng.normal(0, jitter)), 1.0)
    matrix = matrix + np.array([[0, 0, 1], [0, 0, 1]]) * rng.normal(0, jitter, (2, 1))
    posed = cv2.warpAffine(picture, matrix, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(posed, np.uint8)


def _lit(rng: np.random.Generator, picture: Pixels) -> Pixels:
    """Another exposure: brightness, a cast, sensor noise."""
    gain = rng.normal(1, 0.04) * rng.normal(1, 0.01, 3)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    noisy = picture * gain.astype(np.float32) + noise * np.float32(rng.uniform(0, 3))
    lit: Pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
    return lit


def cover_of(mask: _Flags, side: int) -> NDArray[np.float32]:
    """(128 / side, 128 / side) from (128, 128). As many defective pixels as a cell is wide make it
    wholly defective: a scratch across it does.
    """
    cells = VIEW_SIDE // side
    share = mask.reshape(cells, side, cells, side).mean(axis=(1, 3))
    cover: NDArray[np.float32] = np.minimum(share * side, 1.0).astype(np.float32)
    return cover
