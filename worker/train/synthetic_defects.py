"""Defects drawn onto photos of good parts: cuts, scratches, stains, foreign matter, dents.

In the manner of CutPaste (Li et al., CVPR 2021) and DRAEM (Zavrtanik et al., ICCV 2021): what
a real defect does to a picture is local, and a model that has learnt to tell such changes from
sound material has something to go by before the first real defect has been photographed. No
knowledge of the product goes in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field, as_field, blurred, fractal, noise, smoothstep

Pixels = NDArray[np.uint8]

VISIBLE = 10.0
"""Grey levels, of the strongest channel, from which on a changed pixel counts as defective."""
MIN_PIXELS = 12
"""Fewer changed pixels are no defect that a photo shows."""

_TRIES = 12


@dataclass(frozen=True)
class Damaged:
    image: Pixels
    """(H, W, 3)."""
    mask: NDArray[np.bool_]
    """(H, W), true where the picture has visibly changed."""
    kind: str


def damage(
    rng: np.random.Generator, photo: Pixels, donor: Pixels, *, largest: float = 0.35
) -> Damaged:
    """The photo (H, W, 3) with one to three synthetic defects.

    `donor`: another picture of the same size that foreign matter is cut from.
    `largest`: the longest a defect gets, as a share of the side; widths and grains are in
    pixels of the pictures that the models see. The same generator state gives the same picture.
    """
    for _ in range(_TRIES):
        kind = str(rng.choice(KINDS))
        image = photo.astype(np.float32)
        for _ in range(1 + int(rng.random() < 0.25) + int(rng.random() < 0.1)):
            image = _KINDS[kind](rng, image, donor.astype(np.float32), largest)
        finished: Pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        change = cv2.absdiff(finished, photo).max(axis=2)
        mask = change >= VISIBLE
        if int(mask.sum()) >= MIN_PIXELS:
            break
    return Damaged(finished, mask, kind)


def _somewhere(rng: np.random.Generator, side: int) -> tuple[float, float]:
    x, y = rng.uniform(0.06, 0.94, 2) * side
    return float(x), float(y)


def _reach(rng: np.random.Generator, side: int, largest: float, smallest: float = 0.012) -> float:
    """Half the length of a defect in pixels; small ones are as frequent as large ones."""
    return float(np.exp(rng.uniform(np.log(smallest), np.log(largest / 2)))) * side


def _blob(rng: np.random.Generator, side: int, largest: float, soft: float = 1.0) -> Field:
    """Coverage (side, side) in [0, 1] of an irregular, rather compact shape."""
    cx, cy = _somewhere(rng, side)
    reach = _reach(rng, side, largest)
    flat = rng.uniform(0.3, 1.0)
    turn = rng.uniform(0, np.pi)
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    y = np.arange(side, dtype=np.float32)[:, None] - np.float32(cy)
    x = np.arange(side, dtype=np.float32)[None] - np.float32(cx)
    u, v = (c * x + s * y) / np.float32(reach), (c * y - s * x) / np.float32(reach * flat)
    ragged = np.float32(rng.uniform(0, 0.6))
    cell = max(2.0, reach * rng.uniform(0.2, 0.9))
    edge = 1 - np.sqrt(u * u + v * v) + ragged * fractal(rng, side, side, (cell, cell), 3)
    width = max(0.6, soft) / reach
    return smoothstep(edge, -width, width)


def _polygon(rng: np.random.Generator, side: int, largest: float) -> Field:
    """Coverage of a sharp-cornered piece."""
    cx, cy = _somewhere(rng, side)
    reach = _reach(rng, side, largest)
    corners = int(rng.integers(3, 9))
    angle = (np.arange(corners) + rng.uniform(0, 0.9, corners)) * (2 * np.pi / corners)
    radius = reach * rng.uniform(0.35, 1.0, corners)
    points = np.stack([cx + radius * np.cos(angle), cy + radius * np.sin(angle)], 1)
    return _filled(points, side)


def _box(rng: np.random.Generator, side: int, largest: float) -> Field:
    cx, cy = _somewhere(rng, side)
    a, b = _reach(rng, side, largest), _reach(rng, side, largest)
    box = cv2.boxPoints(((cx, cy), (2 * a, 2 * b), rng.uniform(0, 180)))
    return _filled(box.astype(np.float64), side)


def _filled(points: NDArray[np.float64], side: int) -> Field:
    canvas = np.zeros((side, side), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return as_field(canvas.astype(np.float32) / 255)


def _line(rng: np.random.Generator, side: int, largest: float, width: float) -> Field:
    """Coverage of a wandering line."""
    steps = int(rng.integers(3, 14))
    length = 2 * _reach(rng, side, 2 * largest, 0.03) / steps
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0.02, 0.6), steps))
    moves = length * np.stack([np.cos(heading), np.sin(heading)], 1) * rng.uniform(0.5, 1.5)
    points = np.array(_somewhere(rng, side)) + np.cumsum(moves, 0)
    canvas = np.zeros((side, side), np.uint8)
    fixed = np.round(points * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed], False, 255, max(1, round(width)), cv2.LINE_AA, 4)
    line = as_field(canvas.astype(np.float32) / 255)
    return as_field(blurred(line, 0.4) * 1.2) if width < 1 else line


def _shape(rng: np.random.Generator, side: int, largest: float) -> Field:
    return (_blob, _polygon, _box)[int(rng.choice(3, p=(0.6, 0.25, 0.15)))](rng, side, largest)


def _over(image: Field, cover: Field, paint: Field, opacity: float = 1.0) -> Field:
    mixed: Field = image + (np.float32(opacity) * np.clip(cover, 0, 1))[..., None] * (paint - image)
    return mixed


def _tone(rng: np.random.Generator, image: Field) -> Field:
    """A colour (3,): dark, bright, or a tint far from the picture's own mean."""
    mean = image.mean(axis=(0, 1))
    if rng.random() < 0.5:
        grey = rng.uniform(0, 255)
        return np.clip(grey + rng.normal(0, 12, 3), 0, 255).astype(np.float32)
    if rng.random() < 0.6:
        tone: Field = np.clip(mean * np.float32(rng.choice((0.1, 0.35, 0.6, 1.5, 2.2))), 0, 255)
        return tone
    return rng.uniform(0, 255, 3).astype(np.float32)


def _moved(rng: np.random.Generator, picture: Field) -> Field:
    """The picture from elsewhere: shifted, turned, scaled, a little relit."""
    side = picture.shape[0]
    matrix = cv2.getRotationMatrix2D(
        (side / 2, side / 2), float(rng.uniform(0, 360)), float(rng.uniform(0.7, 1.6))
    )
    matrix = matrix + np.array([[0, 0, side], [0, 0, side]]) * rng.uniform(-0.5, 0.5, (2, 1))
    moved = cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    relit = as_field(moved) * np.float32(rng.normal(1, 0.1)) + np.float32(rng.normal(0, 8))
    return as_field(relit)


def _cut_paste(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    return _over(image, _shape(rng, image.shape[0], largest), _moved(rng, image))


def _foreign(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    opacity = float(rng.choice((1.0, rng.uniform(0.35, 1.0))))
    return _over(image, _shape(rng, image.shape[0], largest), _moved(rng, donor), opacity)


def _lump(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """Foreign matter of one colour, grained, shaded at its border."""
    side = image.shape[0]
    cover = _shape(rng, side, largest)
    grain = float(np.exp(rng.uniform(np.log(1.2), np.log(12))))
    paint = np.empty_like(image)
    paint[:] = _tone(rng, image)
    paint += (np.float32(rng.uniform(0, 45)) * noise(rng, side, side, (grain, grain)))[..., None]
    relief = cover - blurred(cover, float(rng.uniform(1, 4)))
    paint += (np.float32(rng.normal(0, 80)) * relief)[..., None]
    return _over(image, cover, paint)


def _stain(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """Something that tints or darkens what lies under it."""
    side = image.shape[0]
    cover = _blob(rng, side, largest, soft=float(rng.uniform(1, 8)))
    tint = rng.uniform(0.2, 0.9) if rng.random() < 0.6 else rng.uniform(1.2, 2.2)
    factor = (tint * rng.normal(1, 0.12, 3)).astype(np.float32)
    return _over(image, cover, image * factor + np.float32(rng.normal(0, 6)))


def _scratch(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    side = image.shape[0]
    width = float(np.exp(rng.uniform(np.log(0.7), np.log(4.0))))
    cover = _line(rng, side, largest, width)
    step = float(rng.choice((-1, 1))) * rng.uniform(25, 150)
    if rng.random() < 0.3:  # an edge that catches light beside one in shade
        step_back = np.roll(cover, (1, 1), (0, 1)) * np.float32(0.7 * step)
        image = image - step_back[..., None]
    worn: Field = image + (cover * np.float32(step))[..., None]
    return worn


def _fibre(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    side = image.shape[0]
    paint = np.empty_like(image)
    paint[:] = _tone(rng, image)
    for _ in range(int(rng.integers(1, 5))):
        width = float(rng.uniform(0.7, 2.2))
        image = _over(image, _line(rng, side, largest / 2, width), paint)
    return image


def _speckles(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    side = image.shape[0]
    cx, cy = _somewhere(rng, side)
    spread = _reach(rng, side, largest)
    canvas = np.zeros((side, side), np.uint8)
    for _ in range(int(rng.integers(4, 40))):
        x, y = cx + rng.normal(0, spread / 2), cy + rng.normal(0, spread / 2)
        radius = max(0.6, rng.exponential(1.5))
        centre = (round(x * 16), round(y * 16))
        cv2.circle(canvas, centre, round(radius * 16), 255, -1, cv2.LINE_AA, 4)
    paint = np.empty_like(image)
    paint[:] = _tone(rng, image)
    return _over(
        image, as_field(canvas.astype(np.float32) / 255), paint, float(rng.uniform(0.4, 1))
    )


def _missing(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """What was there is gone: the place shows what surrounds it."""
    side = image.shape[0]
    cover = _shape(rng, side, largest)
    hidden = (cover > 0.05).astype(np.uint8)
    photo = np.clip(image, 0, 255).astype(np.uint8)
    around = cv2.dilate(hidden, np.ones((5, 5), np.uint8)) - hidden
    if rng.random() < 0.5 and around.any():
        paint = np.empty_like(image)
        paint[:] = image[around > 0].mean(axis=0)
        paint += rng.normal(0, 2, image.shape).astype(np.float32)
    else:
        small = cv2.resize(photo, (side // 2, side // 2), interpolation=cv2.INTER_AREA)
        gone = cv2.resize(hidden, (side // 2, side // 2), interpolation=cv2.INTER_NEAREST)
        filled = cv2.inpaint(small, gone, 3, cv2.INPAINT_TELEA)
        paint = as_field(cv2.resize(filled, (side, side), interpolation=cv2.INTER_LINEAR))
    return _over(image, cover, paint)


def _displaced(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """A piece that has slipped by some pixels."""
    side = image.shape[0]
    cover = _shape(rng, side, largest)
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(2, 14)
    matrix = np.array([[1, 0, far * np.cos(turn)], [0, 1, far * np.sin(turn)]], np.float32)
    slipped = cv2.warpAffine(image, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return _over(image, cover, as_field(slipped))


def _bent(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """A dent or a bulge: the picture is drawn together or apart about a place."""
    side = image.shape[0]
    cx, cy = _somewhere(rng, side)
    reach = max(5.0, _reach(rng, side, largest))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    falloff = np.exp(-(dx * dx + dy * dy) / np.float32(2 * (reach / 1.5) ** 2))
    if rng.random() < 0.5:
        pull = np.float32(rng.choice((-1, 1)) * rng.uniform(0.3, 0.8)) * falloff
        sx, sy = x - pull * dx, y - pull * dy
    else:
        turn, far = rng.uniform(0, 2 * np.pi), np.float32(rng.uniform(0.3, 0.9) * reach)
        sx = x - far * np.float32(np.cos(turn)) * falloff
        sy = y - far * np.float32(np.sin(turn)) * falloff
    bent = cv2.remap(image, sx, sy, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT_101)
    shade = np.float32(rng.normal(0, 12)) * falloff
    dented: Field = as_field(bent) + shade[..., None]
    return dented


def _smeared(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """Detail lost: blurred or scraped along a direction."""
    side = image.shape[0]
    cover = _blob(rng, side, largest, soft=2.0)
    length = int(rng.integers(3, 12)) * 2 + 1
    kernel = np.zeros((length, length), np.uint8)
    turn = rng.uniform(0, np.pi)
    half = length // 2
    tip = (round(half + half * np.cos(turn)), round(half + half * np.sin(turn)))
    tail = (round(half - half * np.cos(turn)), round(half - half * np.sin(turn)))
    cv2.line(kernel, tail, tip, 1)
    smear = cv2.filter2D(image, -1, kernel.astype(np.float32) / max(1, int(kernel.sum())))
    return _over(image, cover, as_field(smear))


def _crack(rng: np.random.Generator, image: Field, donor: Field, largest: float) -> Field:
    """A dark line with branches, light along one flank."""
    side = image.shape[0]
    dark = np.zeros((side, side), np.float32)
    for _ in range(int(rng.integers(1, 4))):
        width = float(rng.uniform(0.8, 3.0))
        dark = np.maximum(dark, _line(rng, side, largest, width))
    depth = np.float32(rng.uniform(40, 140))
    light = np.roll(dark, int(rng.choice((-2, 2))), int(rng.integers(2)))
    cracked: Field = (
        image - (dark * depth)[..., None] + (light * depth * np.float32(0.6))[..., None]
    )
    return cracked


_Kind = Callable[[np.random.Generator, Field, Field, float], Field]
_KINDS: dict[str, _Kind] = {
    "cut_paste": _cut_paste,
    "foreign": _foreign,
    "lump": _lump,
    "stain": _stain,
    "scratch": _scratch,
    "fibre": _fibre,
    "speckles": _speckles,
    "missing": _missing,
    "displaced": _displaced,
    "bent": _bent,
    "smeared": _smeared,
    "crack": _crack,
}
KINDS = tuple(_KINDS)
