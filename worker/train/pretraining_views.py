"""What the backbone is pretrained on: rendered products, sound and damaged, many views of each.

The backbone is there to tell the damaged views of one product from its sound ones, whatever the
product. So it is shown products: parts and materials of all sorts, and bottles.
"""

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.inspect.backbone import CELLS
from worker.inspect.preprocess import SIDE
from worker.train.progress import Progress, silent
from worker.train.render import LABELS, render_bottle
from worker.train.render_parts import render_parts
from worker.train.synthetic_defects import KINDS, Pixels, damage

VIEWS = 16
"""Of each product; every other one is damaged."""
BOTTLE_SHARE = 0.25
BOTTLES = 384
"""Rendered beforehand, because one takes an eighth of a second."""
RENDERED = len(KINDS)
"""Kind of the defects that the bottle renderer itself draws."""

_T = TypeVar("_T", bound=np.generic)
_Flags = NDArray[np.bool_]
_View = tuple[Pixels, _Flags, int]
_CELL = SIDE // CELLS


@dataclass(frozen=True)
class Views:
    """The views of one product."""

    pictures: Pixels  # (VIEWS, 256, 256, 3)
    cover: NDArray[np.float32]
    """(VIEWS, 8, 8): how much of each cell of the feature maps is defective, in [0, 1]."""
    kinds: NDArray[np.int64]  # (VIEWS,), kind of defect, -1 for sound views


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


def draw_product(seed: int, number: int, bottles: Bottles) -> Views:
    """Product `number` of a pretraining: the same whenever it is drawn."""
    rng = np.random.default_rng([seed, 3, number])
    donor = render_parts(rng, SIDE)
    is_bottle = rng.random() < BOTTLE_SHARE
    views = _bottle_views(rng, bottles, donor) if is_bottle else _part_views(rng, donor)
    return Views(
        np.stack([_lit(rng, picture) for picture, _, _ in views]),
        np.stack([cover_of(mask) for _, mask, _ in views]),
        np.array([kind for _, _, kind in views]),
    )


def cover_of(mask: _Flags) -> NDArray[np.float32]:
    """(8, 8) from (256, 256). As many defective pixels as a cell is wide make it wholly defective:
    a scratch across it does.
    """
    share = mask.reshape(CELLS, _CELL, CELLS, _CELL).mean(axis=(1, 3))
    cover: NDArray[np.float32] = np.minimum(share * _CELL, 1.0).astype(np.float32)
    return cover


def _part_views(rng: np.random.Generator, donor: Pixels) -> list[_View]:
    """Views of one part as it lies, more or less exactly, or from anywhere on a material."""
    part = render_parts(rng, SIDE)
    is_material = rng.random() < 1 / 3
    jitter = float(rng.choice((0.0, 1.0, 4.0)))
    views: list[_View] = []
    for number in range(VIEWS):
        picture = _posed(rng, part, jitter)
        views.append(
            _damaged(rng, _cut(rng, picture) if is_material else picture, donor, number % 2 == 1)
        )
    return views


def _bottle_views(rng: np.random.Generator, bottles: Bottles, donor: Pixels) -> list[_View]:
    """Views of different bottles; half of the damage is the renderer's own."""
    views: list[_View] = []
    for number in range(VIEWS):
        turns, is_mirrored = int(rng.integers(4)), rng.random() < 0.5
        if number % 2 and rng.random() < 0.5:
            picture, mask = bottles.damaged[int(rng.integers(len(bottles.damaged)))]
            views.append(
                (_laid(picture, turns, is_mirrored), _laid(mask, turns, is_mirrored), RENDERED)
            )
        else:
            picture = bottles.sound[int(rng.integers(len(bottles.sound)))]
            views.append(_damaged(rng, _laid(picture, turns, is_mirrored), donor, number % 2 == 1))
    return views


def _damaged(rng: np.random.Generator, picture: Pixels, donor: Pixels, is_defective: bool) -> _View:
    if not is_defective:
        return picture, np.zeros(picture.shape[:2], np.bool_), -1
    damaged = damage(rng, picture, donor)
    return damaged.image, damaged.mask, KINDS.index(damaged.kind)


def _laid(picture: NDArray[_T], turns: int, is_mirrored: bool) -> NDArray[_T]:
    turned = np.rot90(picture, turns)
    return np.ascontiguousarray(turned[:, ::-1] if is_mirrored else turned)


def _cut(rng: np.random.Generator, picture: Pixels) -> Pixels:
    """A large square from anywhere, turned and enlarged."""
    side = int(SIDE * rng.uniform(0.75, 1.0))
    x, y = (int(k) for k in rng.integers(0, SIDE - side + 1, 2))
    turned = np.rot90(picture[y : y + side, x : x + side], int(rng.integers(4)))
    return np.asarray(cv2.resize(np.ascontiguousarray(turned), (SIDE, SIDE)), np.uint8)


def _posed(rng: np.random.Generator, picture: Pixels, jitter: float) -> Pixels:
    """The part as the next one lies: shifted and turned a little."""
    if jitter == 0:
        return picture
    matrix = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), float(rng.normal(0, jitter)), 1.0)
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
