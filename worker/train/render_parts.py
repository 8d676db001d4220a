"""Procedural pictures of all sorts of parts and materials, none of them a bottle.

A shared backbone's batch norms are calibrated on a broad mix of what a camera may
see. Variety of texture, colour and spatial frequency matters here, beauty does not.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.fields import Field, Floats, as_field, blurred, fractal, noise, smoothstep

_Picture = Callable[[np.random.Generator, int], Field]


def render_parts(rng: np.random.Generator, size: int = 256) -> NDArray[np.uint8]:
    """A picture (size, size, 3) RGB of something: metal, cloth, boards, clutter, gradients.

    The same generator state gives the same picture.
    """
    picture = _KINDS[int(rng.integers(len(_KINDS)))](rng, size)
    if rng.random() < 0.12:
        # Two materials in one picture, along a soft or a hard border.
        other = _KINDS[int(rng.integers(len(_KINDS)))](rng, size)
        border = fractal(rng, size, size, (size / 2, size / 2), 2)
        width = float(rng.uniform(0.02, 0.5))
        picture = picture + smoothstep(border, -width, width)[..., None] * (other - picture)
    return _finish(rng, picture)


def _finish(rng: np.random.Generator, picture: Field) -> NDArray[np.uint8]:
    """Light falls off, the lens blurs, the sensor is noisy, the exposure varies."""
    size = picture.shape[0]
    if rng.random() < 0.5:
        slope = np.linspace(-1, 1, size, dtype=np.float32) * np.float32(rng.uniform(-0.3, 0.3))
        picture = picture * (1 + (slope[None] if rng.random() < 0.5 else slope[:, None]))[..., None]
    if rng.random() < 0.4:
        picture = blurred(picture, float(rng.uniform(0.4, 2.0)) * size / 256)
    picture = picture * np.float32(rng.lognormal(0, 0.2)) + np.float32(rng.normal(0, 10))
    grain = rng.standard_normal((size, size, 1 if rng.random() < 0.3 else 3), dtype=np.float32)
    picture = picture + grain * np.float32(max(0.0, rng.normal(1.5, 2.5)))
    finished: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return finished


def _colour(rng: np.random.Generator, low: float = 10, high: float = 245) -> Field:
    """(3,) RGB: grey, tinted or vivid."""
    grey = rng.uniform(low, high)
    spread = float(rng.choice((4, 25, 80), p=(0.35, 0.4, 0.25)))
    return np.clip(grey + rng.normal(0, spread, 3), 0, 255).astype(np.float32)


def _blend(field: Floats, low: Field, high: Field) -> Field:
    """(H, W, 3): `low` where the field is 0, `high` where it is 1."""
    blend: Field = low + np.clip(field, 0, 1)[..., None] * (high - low)
    return blend


def _polar(u: Field, v: Field) -> tuple[Field, Field]:
    radius, angle = cv2.cartToPolar(u, v)
    return as_field(radius), as_field(angle)


def _grid(size: int, turn: float, shift: tuple[float, float] = (0.5, 0.5)) -> tuple[Field, Field]:
    """Coordinates u, v (size, size) in pixels about a centre, turned by `turn` radians."""
    y = np.arange(size, dtype=np.float32)[:, None] - np.float32(size * shift[1])
    x = np.arange(size, dtype=np.float32)[None] - np.float32(size * shift[0])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return c * x + s * y, c * y - s * x


def _plain(rng: np.random.Generator, size: int) -> Field:
    """A background with a gradient and at most faint clouds."""
    u, _ = _grid(size, rng.uniform(0, 2 * np.pi))
    field = 0.5 + u / (1.4 * size)
    field = field + np.float32(rng.uniform(0, 0.15)) * fractal(
        rng, size, size, (size / 3, size / 3), 3
    )
    return _blend(field, _colour(rng), _colour(rng))


def _metal_disc(rng: np.random.Generator, size: int) -> Field:
    """A turned disc: fine grooves, anisotropic highlights, a bore, perhaps holes."""
    u, v = _grid(size, 0, (rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)))
    radius, angle = _polar(u, v)
    grooves = rng.standard_normal(2 * size, dtype=np.float32)
    grooves = blurred(grooves[None], float(rng.uniform(0.4, 2)))[0]
    lit = np.cos((angle - rng.uniform(0, 6)) * int(rng.integers(1, 4))) ** 2
    tone = 0.35 + 0.4 * lit + 0.15 * grooves[np.minimum(radius.astype(np.int32), 2 * size - 1)]
    disc = _blend(tone.astype(np.float32), _colour(rng, 10, 90), _colour(rng, 140, 255))
    outer = rng.uniform(0.3, 0.49) * size
    inside = smoothstep(outer - radius, -1, 1)
    bore = smoothstep(radius - rng.uniform(0.05, 0.7) * outer, -1, 1)
    holes = int(rng.integers(0, 9))
    pitch, hole = rng.uniform(0.5, 0.85) * outer, rng.uniform(0.03, 0.1) * outer
    for k in range(holes):
        a = 2 * np.pi * k / holes
        inside = inside * smoothstep(
            np.hypot(u - pitch * np.cos(a), v - pitch * np.sin(a)).astype(np.float32) - hole, -1, 1
        )
    back = _plain(rng, size)
    return back + (inside * bore)[..., None] * (disc - back)


def _gear(rng: np.random.Generator, size: int) -> Field:
    u, v = _grid(size, 0, (rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.6)))
    radius, angle = _polar(u, v)
    teeth, depth = int(rng.integers(8, 48)), rng.uniform(0.04, 0.12) * size
    wave = np.clip(np.sin(angle * teeth + rng.uniform(0, 6)) * rng.uniform(1.2, 4), -1, 1)
    edge = rng.uniform(0.28, 0.42) * size + 0.5 * depth * wave
    body = smoothstep(edge - radius, -1, 1)
    body *= smoothstep(radius - rng.uniform(0.04, 0.15) * size, -1, 1)
    relief = body - blurred(body, 3.0) + 0.1 * noise(rng, size, size, (2, 2))
    metal = _blend(0.5 + relief, _colour(rng, 20, 110), _colour(rng, 130, 250))
    back = _KINDS[int(rng.integers(3))](rng, size) if rng.random() < 0.2 else _plain(rng, size)
    return back + body[..., None] * (metal - back)


def _screws(rng: np.random.Generator, size: int) -> Field:
    """Threaded rods with heads, lying about."""
    picture = _plain(rng, size)
    for _ in range(rng.integers(1, 7)):
        u, v = _grid(
            size, rng.uniform(0, 2 * np.pi), (rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9))
        )
        length, half = rng.uniform(0.15, 0.45) * size, rng.uniform(0.015, 0.06) * size
        pitch = rng.uniform(0.25, 0.8) * half + 1.5
        thread = np.sin(2 * np.pi * (u + 0.3 * v) / pitch)
        shaft = smoothstep(half * (1 + 0.12 * thread) - np.abs(v), -1, 1) * smoothstep(
            length - np.abs(u), -1, 1
        )
        head = smoothstep(2 * half - np.abs(v), -1, 1) * smoothstep(
            0.8 * half - np.abs(u - length), -1, 1
        )
        tone = 0.75 - 0.7 * (v / (2 * half)) ** 2 + 0.25 * thread
        metal = _blend(tone.astype(np.float32), _colour(rng, 5, 80), _colour(rng, 140, 255))
        picture = picture + np.maximum(shaft, head)[..., None] * (metal - picture)
    return picture


def _board(rng: np.random.Generator, size: int) -> Field:
    """Like a circuit board: tracks at right angles, pads, chips with pins."""
    base = _colour(rng, 20, 110)
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = base
    track = (base + rng.uniform(15, 60)).tolist()
    solder = _colour(rng, 150, 250).tolist()
    for _ in range(rng.integers(10, 45)):
        point = rng.integers(0, size, 2)
        for _ in range(rng.integers(1, 5)):
            end = point.copy()
            end[rng.integers(2)] += int(rng.normal(0, size / 5))
            cv2.line(picture, point.tolist(), end.tolist(), track, int(rng.integers(1, 4)))
            point = end
        cv2.circle(picture, point.tolist(), int(rng.integers(2, 6)), solder, -1, cv2.LINE_AA)
    for _ in range(rng.integers(1, 9)):
        x, y = (int(k) for k in rng.integers(0, size, 2))
        w, h = (int(k) for k in rng.integers(max(6, size // 24), size // 4, 2))
        for k in range(x + 2, x + w - 2, 6):
            cv2.rectangle(picture, (k, y - 4), (k + 2, y + h + 4), solder, -1)
        chip = _colour(rng, 10, 60 if rng.random() < 0.7 else 230)
        cv2.rectangle(picture, (x, y), (x + w, y + h), chip.tolist(), -1)
        for k in range(x + 4, x + w - 8, 7):
            cv2.line(picture, (k, y + h // 2), (k + 4, y + h // 2 - 4), (chip + 90).tolist(), 1)
    return picture


def _weave(rng: np.random.Generator, size: int) -> Field:
    """Cloth or carpet: warp over weft, with uneven yarn."""
    u, v = _grid(size, rng.uniform(0, np.pi))
    pitch = rng.uniform(4, 28)
    bend = 0.12 * pitch * noise(rng, size, size, (size / 6, size / 6))
    a, b = (u + bend) * (np.pi / pitch), (v + bend) * (np.pi / pitch)
    over = np.sin(a) * np.sin(b) > 0
    yarn = np.where(over, np.abs(np.sin(a)), np.abs(np.sin(b))).astype(np.float32)
    yarn = yarn * (0.8 + 0.2 * noise(rng, size, size, (2, 2)))
    first, second = _colour(rng), _colour(rng)
    if rng.random() < 0.6:
        second = first * np.float32(rng.uniform(0.7, 1.0))
    colour = np.where(over[..., None], first, second)
    woven: Field = colour * (0.25 + 0.75 * yarn[..., None])
    return woven


def _wire_grid(rng: np.random.Generator, size: int) -> Field:
    u, v = _grid(size, rng.uniform(0, np.pi))
    pitch, shear = rng.uniform(10, 48), rng.uniform(-0.6, 0.6)
    half = pitch * rng.uniform(0.05, 0.25)
    across = np.abs((u + shear * v) % pitch - pitch / 2)
    along = np.abs(v % (pitch * rng.uniform(0.6, 1.6)) - pitch / 2)
    wire = np.minimum(across, along).astype(np.float32)
    cover = smoothstep(half - wire, -1, 1)
    tone = np.sqrt(np.clip(1 - (wire / half) ** 2, 0, 1)).astype(np.float32)
    metal = _blend(tone, _colour(rng, 10, 90), _colour(rng, 120, 255))
    back = _plain(rng, size)
    return back + cover[..., None] * (metal - back)


def _leather(rng: np.random.Generator, size: int) -> Field:
    """Cells with creases: the distance between the two nearest of many points."""
    count = int(rng.integers(40, 500))
    seeds = np.zeros((size, size), np.uint8)
    seeds[:] = 255
    where = rng.integers(0, size, (count, 2))
    seeds[where[:, 0], where[:, 1]] = 0
    distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 5)
    scale = size / np.sqrt(count)
    field = distance / np.float32(0.8 * scale) + 0.15 * fractal(rng, size, size, (8, 8), 2)
    light, dark = _colour(rng), _colour(rng)
    if rng.random() < 0.6:
        dark = light * np.float32(rng.uniform(0.3, 0.8))
    return _blend(field, light, dark)


def _wood(rng: np.random.Generator, size: int) -> Field:
    u, v = _grid(size, rng.uniform(0, np.pi), (rng.uniform(-0.5, 1.5), 0.5))
    bend = 12 * fractal(rng, size, size, (size / 2, size / 2), 3)
    rings = np.sin((np.hypot(u, 0.12 * v) + bend) * (2 * np.pi / rng.uniform(6, 30)))
    side = size + 1
    pores = cv2.resize(rng.standard_normal((side // 12 + 1, side), dtype=np.float32), (size, size))
    field = 0.5 + 0.3 * rings + 0.12 * pores
    brown = np.array(
        [rng.uniform(110, 210), rng.uniform(80, 150), rng.uniform(40, 110)], np.float32
    )
    return _blend(field.astype(np.float32), brown * np.float32(0.55), brown)


def _speckle(rng: np.random.Generator, size: int) -> Field:
    """Granulate, stone, cast metal: noise of one to three grains, thresholded or not."""
    grain = float(np.exp(rng.uniform(np.log(1.5), np.log(40))))
    flat = grain * rng.uniform(0.3, 1.0)
    field = fractal(rng, size, size, (grain, flat), int(rng.integers(1, 5)))
    if rng.random() < 0.4:
        field = smoothstep(field, -0.2, rng.uniform(0.0, 1.5))
        picture = _blend(field, _colour(rng), _colour(rng))
        other = smoothstep(noise(rng, size, size, (grain, grain)), 0.8, 1.2)
        return picture + other[..., None] * (_colour(rng) - picture)
    contrast = np.float32(rng.uniform(0.08, 0.5))
    return _blend(0.5 + contrast * field, _colour(rng), _colour(rng))


def _clutter(rng: np.random.Generator, size: int) -> Field:
    """Boxes, discs, bars and polygons of any colour on top of each other."""
    picture = np.ascontiguousarray(_plain(rng, size))
    for _ in range(rng.integers(4, 60)):
        colour = _colour(rng).tolist()
        x, y = (int(k) for k in rng.integers(0, size, 2))
        reach = int(np.exp(rng.uniform(np.log(3), np.log(size / 3))))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.circle(picture, (x, y), reach, colour, int(rng.choice((-1, 1, 3))), cv2.LINE_AA)
        elif kind == 1:
            box = cv2.boxPoints(((x, y), (reach, reach * rng.uniform(0.2, 1)), rng.uniform(0, 180)))
            cv2.fillPoly(picture, [box.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 2:
            end = (x + int(rng.normal(0, reach * 2)), y + int(rng.normal(0, reach * 2)))
            cv2.line(picture, (x, y), end, colour, int(rng.integers(1, 6)), cv2.LINE_AA)
        else:
            points = np.array([x, y]) + rng.normal(0, reach, (int(rng.integers(3, 8)), 2))
            cv2.fillPoly(picture, [points.astype(np.int32)], colour, cv2.LINE_AA)
    return picture


def _brushed(rng: np.random.Generator, size: int) -> Field:
    """Brushed or rolled metal with scratches."""
    streaks = fractal(rng, size, size, (rng.uniform(1.0, 3), size / rng.uniform(1, 4)), 2)
    if rng.random() < 0.5:
        streaks = np.ascontiguousarray(streaks.T)
    picture = _blend(0.5 + 0.25 * streaks, _colour(rng, 50, 120), _colour(rng, 140, 240))
    for _ in range(rng.integers(0, 12)):
        start, end = rng.integers(0, size, 2).tolist(), rng.integers(0, size, 2).tolist()
        cv2.line(picture, start, end, _colour(rng).tolist(), 1, cv2.LINE_AA)
    return picture


def _tiles(rng: np.random.Generator, size: int) -> Field:
    """Repeated shapes: tablets, perforated sheet, bricks, keys."""
    pitch = int(rng.integers(12, 70))
    across, down = size // pitch + 2, size // pitch + 2
    picture = np.ascontiguousarray(_plain(rng, size))
    colour, is_round = _colour(rng), rng.random() < 0.5
    reach = pitch * rng.uniform(0.2, 0.48)
    for row in range(down):
        for column in range(across):
            shift = (row % 2) * pitch // 2
            centre = (column * pitch + shift, row * pitch)
            tone = np.clip(colour * rng.normal(1, 0.08), 0, 255).tolist()
            if is_round:
                cv2.circle(picture, centre, int(reach), tone, -1, cv2.LINE_AA)
            else:
                low = (int(centre[0] - reach), int(centre[1] - 0.7 * reach))
                high = (int(centre[0] + reach), int(centre[1] + 0.7 * reach))
                cv2.rectangle(picture, low, high, tone, -1)
    relief = picture.mean(-1)
    edge = relief - blurred(relief, float(rng.uniform(1, 4)))
    embossed: Field = picture + np.float32(rng.uniform(0, 0.8)) * edge[..., None]
    return embossed


def _cables(rng: np.random.Generator, size: int) -> Field:
    """Round cross-sections and bent cables with a highlight along each."""
    picture = np.ascontiguousarray(_plain(rng, size))
    t = np.linspace(0, 1, 24)[:, None]
    for _ in range(rng.integers(3, 18)):
        a, b, c = rng.uniform(-0.1, 1.1, (3, 2)) * size
        curve = np.round(((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c) * 16).astype(np.int32)
        width, colour = int(rng.integers(2, max(4, size // 14))), _colour(rng)
        for share, tone in ((1.0, 0.5), (0.75, 0.8), (0.45, 1.0), (0.15, 1.35)):
            cv2.polylines(picture, [curve], False, np.clip(colour * tone, 0, 255).tolist(),
                          max(1, int(width * share)), cv2.LINE_AA, 4)  # fmt: skip
    return picture


_KINDS: tuple[_Picture, ...] = (
    _plain,
    _speckle,
    _brushed,
    _metal_disc,
    _gear,
    _screws,
    _board,
    _weave,
    _wire_grid,
    _leather,
    _wood,
    _clutter,
    _tiles,
    _cables,
)
