"""The intact bottle: concentric rings of dark glass around a dark opening.

Composed on a polar strip (radius down, angle to the right), where a ring is a row,
and warped into the photo at the end. Two frames matter: light and camera stand
still while the bottle turns under them, so that glints keep to a few angles, and
mould seams and the amber band's gaps may be anywhere.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from worker.train.render.fields import Field, fractal, noise, ring_noise, smoothstep
from worker.train.render.geometry import Pose

FIRST, LAST = 176, 424
"""Radii of the strip's first and last row, one row a nominal pixel."""
ANGLES = 1800
_ROWS = LAST - FIRST
_PAD = 8

# Radius and RGB of the glass, from the opening to the background. The background is
# brighter than white: the photo is exposed for the dark glass.
_RINGS: tuple[tuple[float, tuple[int, int, int]], ...] = (
    (176, (34, 34, 46)),
    (187, (35, 34, 46)),
    (193, (45, 38, 48)),
    (200, (47, 42, 51)),
    (207, (55, 54, 61)),
    (212, (57, 59, 66)),
    (217, (48, 51, 59)),
    (238, (48, 52, 59)),
    (248, (58, 62, 69)),
    (258, (67, 71, 78)),
    (266, (71, 74, 82)),
    (276, (67, 68, 77)),
    (290, (68, 68, 77)),
    (302, (62, 61, 69)),
    (322, (64, 63, 71)),
    (334, (62, 63, 73)),
    (341, (63, 65, 74)),
    (348, (77, 78, 86)),
    (354, (101, 99, 104)),
    (360, (116, 110, 113)),
    (366, (98, 95, 99)),
    (372, (72, 73, 80)),
    (379, (56, 58, 68)),
    (385, (59, 62, 71)),
    (391, (76, 80, 88)),
    (397, (116, 122, 124)),
    (403, (184, 189, 184)),
    (409, (248, 250, 242)),
    (414, (282, 282, 278)),
    (424, (330, 330, 330)),
)


@dataclass
class Strip:
    """The unrolled glass, (rows, ANGLES, 3), and the angles of its columns."""

    colour: Field
    radius: Field
    """(rows, 1)"""
    angle: Field
    """(ANGLES,)"""
    light: float
    """Angle by which the lamp is turned away from its usual place."""

    def paint(self, alpha: Field, colour: tuple[float, float, float], first: int = 0) -> None:
        """Lay `colour` over the rows from `first` with opacity `alpha` (rows, ANGLES)."""
        rows = self.colour[first : first + alpha.shape[0]]
        rows += alpha[..., None] * (np.array(colour, np.float32) - rows)

    def glow(self, gain: Field, colour: tuple[float, float, float], first: int = 0) -> None:
        """Add light: `gain` (rows, ANGLES) times `colour`."""
        rows = self.colour[first : first + gain.shape[0]]
        rows += gain[..., None] * np.array(colour, np.float32)

    def bump(self, centre: float, width: float) -> Field:
        """(ANGLES,) 1 at angle `centre`, falling like a Gaussian of `width` radians."""
        away = np.angle(np.exp(1j * (self.angle - centre))).astype(np.float32)
        bump: Field = np.exp(-0.5 * (away / np.float32(width)) ** 2)
        return bump


def intact_glass(rng: np.random.Generator) -> Strip:
    """A sound bottle's strip, with the small irregularities that sound bottles have."""
    # Usually the lamp hangs where it always hangs; now and then somebody has moved it.
    light = float(rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi))
    strip = _rings(rng, light)
    _knurl(rng, strip)
    _bore_edge(rng, strip)
    _amber_band(rng, strip)
    _neck_lines(rng, strip)
    _seams(rng, strip)
    _glints(rng, strip)
    _nuisance(rng, strip)
    return strip


def unroll(strip: Strip, pose: Pose, radius: Field, angle: Field) -> Field:
    """Scene (SIDE, SIDE, 3) of the strip; radius and angle are those of `pose.to_polar`."""
    del pose
    padded = cv2.copyMakeBorder(strip.colour, 0, 0, _PAD, _PAD, cv2.BORDER_WRAP)
    columns = angle * np.float32(ANGLES / (2 * np.pi)) + np.float32(_PAD)
    rows = radius - np.float32(FIRST)
    scene: Field = cv2.remap(padded, columns, rows, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE)
    return scene


def add_depth_glow(rng: np.random.Generator, scene: Field, radius: Field, pose: Pose) -> None:
    """Light the bottom of the bottle faintly, seen through the opening."""
    side = scene.shape[0] // 4
    y = np.arange(side, dtype=np.float32)[:, None] * 4 - np.float32(pose.y + rng.normal(0, 25))
    x = np.arange(side, dtype=np.float32)[None] * 4 - np.float32(pose.x + rng.normal(0, 25))
    distance = x * x + y * y
    broad, strength = rng.uniform(70, 120), rng.uniform(3, 11)
    glow = strength * np.exp(-0.5 * distance / broad**2)
    if rng.random() < 0.25:
        # The push-up of the bottom: a paler ring around a dark centre.
        glow -= rng.uniform(2, 8) * np.exp(-0.5 * distance / rng.uniform(10, 30) ** 2)
    glow = glow + 0.8 * noise(rng, side, side, (40, 40))
    tint = np.array([1.0, rng.uniform(0.9, 1.1), rng.uniform(0.55, 0.9)], np.float32)
    wide = cv2.resize(glow.astype(np.float32), scene.shape[1::-1])
    wide *= radius < 192.0
    scene += wide[..., None] * tint


def _rings(rng: np.random.Generator, light: float) -> Strip:
    angle = (np.arange(ANGLES, dtype=np.float32) * np.float32(2 * np.pi / ANGLES)).astype(
        np.float32
    )
    radius = (np.arange(_ROWS, dtype=np.float32) + FIRST)[:, None]
    nodes = np.array([r for r, _ in _RINGS], np.float32)
    colours = np.array([c for _, c in _RINGS], np.float32)
    shift = rng.normal(0, 1.2, len(nodes)).astype(np.float32)
    shift[nodes < 217] = rng.normal(0, 4.0)
    nodes = np.maximum.accumulate(nodes + shift + np.arange(len(nodes), dtype=np.float32) * 1e-3)
    glass = colours < 200
    colours = np.where(glass, colours * rng.normal(1.0, 0.05, (len(nodes), 1)), colours)

    # Each row is a blend of its two neighbouring rings: a (rows, rings) matrix of hats.
    weights = np.stack(
        [np.interp(radius[:, 0], nodes, row) for row in np.eye(len(nodes))], axis=1
    ).astype(np.float32)
    weights = cv2.GaussianBlur(weights, (1, 9), sigmaX=0.1, sigmaY=1.6)
    shade = np.ones((len(nodes), ANGLES), np.float32)
    shade += 0.04 * np.stack([ring_noise(rng, ANGLES, 9) for _ in nodes])
    strip = Strip(np.empty(0, np.float32), radius, angle, light)
    # Away from the lamp (below, usually) the rings show their full contrast; opposite, little.
    shadow = _sector(strip, np.radians(68), np.radians(142), light, rng)
    opposite = strip.bump(np.radians(262) + light, 0.4)
    depth = rng.uniform(0.2, 0.45)
    for ring, nominal in enumerate(r for r, _ in _RINGS):
        if 330 <= nominal <= 343 or 376 <= nominal <= 392:
            shade[ring] *= 1.0 - depth * shadow
        elif 348 <= nominal <= 372:
            peak = np.exp(-0.5 * ((nominal - 360) / 8) ** 2)
            shade[ring] *= 1.0 + peak * (0.08 * shadow - rng.uniform(0.2, 0.4) * opposite)
        elif 286 <= nominal <= 303:
            shade[ring] *= 1.0 - 0.6 * depth * shadow
        if nominal > 405:
            shade[ring] = 1.0
    rings = (colours[:, None, :] * shade[..., None]).reshape(len(nodes), -1).astype(np.float32)
    strip.colour = (weights @ rings).reshape(_ROWS, ANGLES, 3)
    _wobble(rng, strip)
    return strip


def _wobble(rng: np.random.Generator, strip: Strip) -> None:
    """Let the outline deviate from the circle: seams stand out by a pixel or two."""
    offset = 0.8 * ring_noise(rng, ANGLES, 7)
    seam = rng.uniform(0, 2 * np.pi)
    for centre in (seam, seam + np.pi + rng.normal(0, 0.05)):
        offset += rng.uniform(0.0, 3.0) * strip.bump(centre, rng.uniform(0.015, 0.05))
    rows = (strip.radius - FIRST) - offset[None] * smoothstep(strip.radius, 330.0, 400.0)
    columns = np.broadcast_to(np.arange(ANGLES, dtype=np.float32), rows.shape)
    strip.colour = cv2.remap(
        strip.colour,
        np.ascontiguousarray(columns),
        rows.astype(np.float32),
        cv2.INTER_LINEAR,
        None,
        cv2.BORDER_REPLICATE,
    )


def _sector(
    strip: Strip, start: float, stop: float, light: float, rng: np.random.Generator
) -> Field:
    """(ANGLES,) 1 between two angles of the lamp's frame, with edges of some 3 degrees."""
    centre, half = (start + stop) / 2 + light, (stop - start) / 2
    away = np.abs(np.angle(np.exp(1j * (strip.angle - centre)))).astype(np.float32)
    half += float(rng.normal(0, 0.05))
    return 1.0 - smoothstep(away, half - 0.06, half + 0.06)


def _knurl(rng: np.random.Generator, strip: Strip) -> None:
    """The rough dark ring that the mould leaves next to the opening."""
    low, high = 206, 256
    first = low - FIRST
    inner = 214 + rng.normal(0, 2.0) + 1.5 * ring_noise(rng, ANGLES, 6)
    outer = 241 + rng.normal(0, 3.5) + 4.0 * ring_noise(rng, ANGLES, 5)
    outer += rng.uniform(1.0, 3.0) * ring_noise(rng, ANGLES, 200)
    radius = strip.radius[first : high - FIRST]
    mask = smoothstep(radius - inner[None], -1.5, 2.0) * (
        1.0 - smoothstep(radius - outer[None], -2.5, 2.5)
    )
    rows = high - low
    height = fractal(rng, rows, ANGLES, (6, 11), 3, wraps=True)
    # Lit from the side: relief, not bumps.
    relief = height - np.roll(height, (1, 2), axis=(0, 1))
    grain = noise(rng, rows, ANGLES, (2, 2), wraps=True)
    strength = float(rng.uniform(4.0, 9.0))
    along = 1.0 + 0.35 * ring_noise(rng, ANGLES, 12)[None]
    texture = (strength * relief + 0.3 * strength * grain) * along
    strip.glow(mask * texture, (0.92, 1.0, 0.98), first)
    strip.glow(mask * np.float32(-rng.uniform(2, 9)), (1.0, 1.0, 1.0), first)
    # Where it ends, the glass is frosted a little further.
    frost = smoothstep(radius - outer[None], -4.0, 2.0) * (
        1.0 - smoothstep(radius - outer[None], 2.0, 12.0)
    )
    strip.glow(frost * (3.0 + 3.0 * grain), (0.8, 1.0, 0.9), first)


def _line(
    strip: Strip,
    radius: Field,
    width: float,
    strength: Field,
    colour: tuple[float, float, float],
) -> None:
    """A thin ring: radius and strength (ANGLES,), width in pixels (one deviation)."""
    low = max(int(radius.min() - 3 * width) - FIRST, 0)
    high = min(int(radius.max() + 3 * width) + 2 - FIRST, _ROWS)
    if low >= high:
        return
    away = strip.radius[low:high] - radius[None]
    alpha = np.exp(np.float32(-0.5 / width**2) * away * away)
    alpha *= np.clip(strength, 0.0, 1.0)[None]
    strip.paint(alpha, colour, low)


def _bore_edge(rng: np.random.Generator, strip: Strip) -> None:
    """One to three thin brown reflexes inside the opening, and its pale rim."""
    base = 199 + rng.normal(0, 3.5) + 0.8 * ring_noise(rng, ANGLES, 3)
    for offset in (0.0, -4.5, -8.0)[: rng.integers(1, 4)]:
        strength = rng.uniform(0.25, 0.7) + 0.15 * ring_noise(rng, ANGLES, 20)
        brown = (rng.uniform(70, 105), rng.uniform(46, 60), rng.uniform(46, 54))
        _line(strip, base + offset, rng.uniform(0.8, 2.0), strength, brown)
    pale = rng.uniform(0.25, 0.65) + 0.2 * ring_noise(rng, ANGLES, 14)
    _line(strip, base + rng.uniform(7, 11), rng.uniform(0.8, 1.8), pale, (92, 98, 103))


def _amber_band(rng: np.random.Generator, strip: Strip) -> None:
    """The refracting ring: brown streaks with glowing and interrupted stretches."""
    low, high = 284, 338
    first, rows = low - FIRST, high - low
    radius = strip.radius[first : first + rows]
    outer = 321 + rng.normal(0, 1.5) + 1.3 * ring_noise(rng, ANGLES, 5)
    width = np.clip(11 + rng.normal(0, 2.5) + 4.5 * ring_noise(rng, ANGLES, 9), 3.0, 26.0)
    centre = outer - width / 2
    away = (radius - centre[None]) / (width[None] / 2)
    streaks = fractal(rng, rows, ANGLES, (5, 90), 3, wraps=True)
    spots = noise(rng, rows, ANGLES, (3, 9), wraps=True)
    ragged = rng.uniform(0.15, 0.5)
    cover = smoothstep(1.0 - np.abs(away) + ragged * streaks + 0.25 * spots, -0.1, 0.55)
    present = np.clip(0.8 + 0.25 * ring_noise(rng, ANGLES, 12), 0.25, 1.0)
    alpha = cover * present[None] * np.float32(rng.uniform(0.7, 1.0))
    amber = (rng.uniform(130, 175), rng.uniform(84, 112), rng.uniform(58, 82))
    strip.paint(alpha, amber, first)
    strip.glow(alpha * (0.5 * streaks + 0.4 * spots), (26, 17, 9), first)
    # Darker smoke on the inner side of the band.
    smoke = smoothstep(-away, 0.4, 1.2) * (1.0 - smoothstep(-away, 1.6, 3.4))
    strip.paint(smoke * smoothstep(streaks, 0.0, 1.6) * 0.5, (88, 64, 56), first)
    # Opposite to the lamp the band glows red and gold.
    for centre_angle, spread, tint in (
        (275, 0.13, (75, 22, 0)),
        (243, 0.16, (45, 28, 8)),
        (344, 0.07, (85, 62, 8)),
        (165, 0.25, (38, 26, 14)),
    ):
        gain = strip.bump(
            np.radians(centre_angle) + strip.light + rng.normal(0, 0.1), spread
        ) * rng.uniform(0.2, 1.2)
        strip.glow(alpha * gain[None] * (0.7 + 0.3 * spots), tint, first)
    # Violet hairlines bound the band.
    violet = (104, 98, 110)
    strength = rng.uniform(0.3, 0.8) + 0.25 * ring_noise(rng, ANGLES, 10)
    _line(strip, outer + 4.5, 0.9, strength, violet)


def _neck_lines(rng: np.random.Generator, strip: Strip) -> None:
    """Fine pale and dark circles between the rough ring and the amber band."""
    shadow = _sector(strip, np.radians(62), np.radians(148), strip.light, rng)
    for _ in range(rng.integers(3, 8)):
        radius = rng.uniform(252, 299) + rng.uniform(0.3, 1.5) * ring_noise(rng, ANGLES, 4)
        part = smoothstep(ring_noise(rng, ANGLES, 4), -0.5, 0.8)
        pale = rng.uniform(0.08, 0.4) * part
        _line(strip, radius, rng.uniform(0.6, 1.6), pale, (104, 106, 116))
    edge = 291 + rng.normal(0, 2.5) + 0.8 * ring_noise(rng, ANGLES, 4)
    outline = np.clip(rng.uniform(0.2, 0.6) + 0.25 * ring_noise(rng, ANGLES, 8), 0, 1)
    _line(strip, edge, rng.uniform(0.6, 1.2), outline, (108, 106, 118))
    for offset, width in ((9.0, 2.2), (-7.0, 3.2), (-14.0, 1.4)):
        dark = shadow * rng.uniform(0.3, 0.95)
        _line(strip, edge + offset + rng.normal(0, 1.5), width * rng.uniform(0.7, 1.4), dark,
              (30, 32, 41))  # fmt: skip


def _seams(rng: np.random.Generator, strip: Strip) -> None:
    """Mould seams: a dark notch through the band, and pale arcs that climb across it."""
    first = rng.uniform(0, 2 * np.pi)
    for centre in (first, first + np.pi + rng.normal(0, 0.15)):
        if rng.random() < 0.75:
            lean = rng.normal(0, 0.0008)
            radius = strip.radius[290 - FIRST : 330 - FIRST]
            away = np.angle(np.exp(1j * (strip.angle - centre))).astype(np.float32)
            notch = np.exp(
                -0.5 * ((away[None] - lean * (radius - 310)) / rng.uniform(0.006, 0.016)) ** 2
            ) * (smoothstep(radius, 296.0, 304.0) * (1 - smoothstep(radius, 322.0, 328.0)))
            strip.paint(notch.astype(np.float32) * np.float32(rng.uniform(0.3, 0.8)),
                        (48, 44, 52), 290 - FIRST)  # fmt: skip
    for _ in range(rng.integers(0, 4)):
        _arc(rng, strip)


def _arc(rng: np.random.Generator, strip: Strip) -> None:
    """A hairline that leaves the neck's edge and joins the band's outer edge."""
    centre, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.45)
    away = np.angle(np.exp(1j * (strip.angle - centre))).astype(np.float32)
    t = np.clip(away / length, 0.0, 1.0)
    climb = np.sqrt(t) if rng.random() < 0.6 else t
    start, end = rng.uniform(286, 294), rng.uniform(310, 327)
    if rng.random() < 0.5:
        climb = climb[::-1]
        away = away[::-1]
    present = ((away > 0) & (away < length)).astype(np.float32)
    radius = np.where(present > 0, start + (end - start) * climb, start).astype(np.float32)
    present = cv2.GaussianBlur(present[None], (15, 1), 3)[0]
    brightness = rng.uniform(110, 165)
    _line(strip, radius, rng.uniform(0.7, 1.2), present * rng.uniform(0.3, 0.9),
          (brightness, brightness * 0.97, brightness))  # fmt: skip


def _glints(rng: np.random.Generator, strip: Strip) -> None:
    """Reflexes of the lamp: a white one, golden ones, and a greenish streak."""
    for angle, radius, spread, tall, tint, chance in (
        (148, 310, 0.045, 7, (190, 200, 180), 0.9),
        (150, 276, 0.06, 4, (95, 105, 85), 0.5),
        (155, 335, 0.04, 6, (75, 72, 50), 0.4),
        (344, 316, 0.06, 6, (190, 150, 60), 0.85),
        (60, 258, 0.22, 5, (48, 60, 50), 0.8),
        (65, 247, 0.25, 9, (25, 32, 27), 0.7),
        (262, 318, 0.10, 4, (110, 50, 20), 0.6),
    ):
        if rng.random() < chance:
            _glint(rng, strip, np.radians(angle) + strip.light + rng.normal(0, 0.04),
                   radius + rng.normal(0, 2.5), spread * rng.uniform(0.5, 1.4),
                   tall * rng.uniform(0.5, 1.3), tint)  # fmt: skip
    for _ in range(rng.poisson(1.2)):
        tint = (120, 115, 95) if rng.random() < 0.5 else (130, 95, 40)
        _glint(rng, strip, rng.uniform(0, 2 * np.pi), rng.uniform(250, 322),
               rng.uniform(0.006, 0.03), rng.uniform(1.0, 4.0), tint)  # fmt: skip


def _glint(
    rng: np.random.Generator,
    strip: Strip,
    angle: float,
    radius: float,
    spread: float,
    tall: float,
    tint: tuple[float, float, float],
) -> None:
    """A lamp's reflex, torn into streaks by the glass. Spread in radians, tall in pixels."""
    reach = int(3 * spread * ANGLES / (2 * np.pi)) + 4
    low = max(int(radius - 3 * tall) - FIRST, 0)
    high = min(int(radius + 3 * tall) + 2 - FIRST, _ROWS)
    columns = np.arange(-reach, reach + 1)
    where = (columns + round(angle * ANGLES / (2 * np.pi))) % ANGLES
    x = columns[None].astype(np.float32) * np.float32(2 * np.pi / ANGLES / spread)
    y = (strip.radius[low:high] - np.float32(radius)) / np.float32(tall)
    envelope = np.exp(-0.5 * (x * x + y * y))
    torn = noise(rng, high - low, len(columns), (2.5, 12)) + 0.7 * noise(
        rng, high - low, len(columns), (2, 3)
    )
    gain = envelope * smoothstep(torn + 2.0 * envelope, 0.6, 2.6) * rng.uniform(0.4, 1.5)
    patch = strip.colour[low:high][:, where]
    patch += gain[..., None].astype(np.float32) * np.array(tint, np.float32)
    strip.colour[low:high][:, where] = patch
    strip.colour[low:high, where] = patch


def _nuisance(rng: np.random.Generator, strip: Strip) -> None:
    """What sound glass shows too: dust points, hairs of light, scratches, smears."""
    for _ in range(rng.poisson(25)):
        row = int(rng.integers(205, 345)) - FIRST
        column = int(rng.integers(1, ANGLES - 2))
        glow = np.float32(rng.exponential(18.0))
        strip.colour[row, column : column + 2] += glow
        strip.colour[row + 1, column] += glow * np.float32(0.6)
    for _ in range(rng.poisson(1.5)):
        _scratch(rng, strip)
    if rng.random() < 0.3:
        smear = noise(rng, _ROWS, ANGLES, (60, 200), wraps=True)
        strip.glow(np.maximum(smear, 0.0) * np.float32(rng.uniform(0.5, 2.5)), (1, 1, 1))


def _scratch(rng: np.random.Generator, strip: Strip) -> None:
    start = np.array([rng.uniform(0, ANGLES), rng.uniform(240, 330) - FIRST])
    steep = rng.random() < 0.35
    reach = rng.uniform(6, 25) if steep else rng.uniform(15, 80)
    end = start + (
        [rng.normal(0, 3), reach] if steep else [reach, rng.normal(0, reach * 0.2)]
    )
    bend = (start + end) / 2 + rng.normal(0, 3, 2)
    t = np.linspace(0, 1, 12)[:, None]
    points = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    alpha = np.zeros((_ROWS, ANGLES), np.float32)
    cv2.polylines(alpha, [np.round(points * 16).astype(np.int32)], False,
                  float(rng.uniform(0.15, 0.6)), 1, cv2.LINE_AA, 4)  # fmt: skip
    pale = rng.uniform(110, 170)
    low, high = int(max(points[:, 1].min() - 3, 0)), int(min(points[:, 1].max() + 3, _ROWS))
    strip.paint(alpha[low:high], (pale, pale * 0.98, pale), low)
