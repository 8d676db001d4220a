"""Foreign bodies with an outline: plastic clips, discs, cords, wires, tubes, drops.

Each function paints itself over the scene and returns its coverage (SIDE, SIDE).
"""

import numpy as np

from worker.train.render.fields import Field, blurred, fractal, noise, smoothstep
from worker.train.render.geometry import OPENING, SIDE, Pose
from worker.train.render.paint import cover as lay
from worker.train.render.paint import filled, glow, paint, stroked
from worker.train.render.shapes import (
    FRAME,
    Points,
    blob,
    circle,
    curve,
    hairs,
    opening,
    somewhere,
    thick,
)
from worker.train.render.soft_matter import brown, grey


def clip(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A curved piece of clear plastic along the rim: flat, with a groove and lit edges."""
    start, span = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(12, 55))
    low = rng.uniform(188, 235)
    high = low + rng.uniform(25, 80)
    t = np.linspace(-1, 1, 40)
    squeeze = (1 - np.abs(t) ** rng.uniform(4, 16)) ** 0.5
    middle = (low + high) / 2 + rng.normal(0, 5) * t
    half = (high - low) / 2 * squeeze
    angle = (start + span * (t + 1) / 2).astype(np.float32)
    outer = pose.to_pixels((middle + half).astype(np.float32), angle)
    inner = pose.to_pixels((middle - half).astype(np.float32), angle)
    border = np.concatenate([outer, inner[::-1]])
    cover = filled(border, FRAME)
    haze = blurred(scene, float(rng.uniform(3, 8)))
    body = np.repeat(grey(rng, 52, 76)[None], SIDE * SIDE, 0).reshape(SIDE, SIDE, 3)
    see_through = np.float32(rng.uniform(0.1, 0.6))
    lay(scene, cover * np.float32(rng.uniform(0.7, 0.95)),
        body + see_through * (haze - body))  # fmt: skip
    for _ in range(rng.integers(1, 5)):
        offset, tall = rng.uniform(-0.7, 0.7), rng.uniform(0.8, 5.0)
        first, last = np.sort(rng.choice(40, 2, replace=False))
        if last - first < 6:
            continue
        radius = (middle + offset * half)[first:last].astype(np.float32)
        groove = pose.to_pixels(radius, angle[first:last]).astype(np.float64)
        taper = tall * np.sin(np.linspace(0, np.pi, last - first))
        line = blurred(filled(thick(groove, taper), FRAME), 0.8)
        tone = grey(rng, 28, 45) if rng.random() < 0.5 else grey(rng, 90, 190)
        paint(scene, line * np.float32(rng.uniform(0.3, 0.9)), tone)
    edge_light(rng, scene, border.astype(np.float64), rng.uniform(0.2, 0.9))
    return cover


def edge_light(rng: np.random.Generator, scene: Field, border: Points, strength: float) -> None:
    """Light up one to three stretches of a border (N, 2)."""
    count = len(border)
    pieces = []
    for _ in range(rng.integers(1, 4)):
        start, length = int(rng.integers(count)), int(rng.integers(count // 8 + 2, count // 2 + 3))
        pieces.append(border[np.arange(start, start + length) % count])
    line = blurred(stroked(pieces, FRAME, int(rng.integers(1, 3))), 0.7)
    paint(scene, line * np.float32(strength), grey(rng, 100, 190))


def disc(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A lid, a lens or a coin-like thing in the opening, with reflexes and a hub."""
    reach = rng.uniform(0.45, 1.0) * OPENING
    centre = somewhere(rng, pose, 0, max(2.0, 0.8 * (OPENING - reach)))
    cover = filled(circle(centre, reach), FRAME) * opening(pose, OPENING)
    clouds = fractal(rng, SIDE, SIDE, (120, 120), 3) * np.float32(rng.uniform(0.5, 4))
    base = grey(rng, 42, 72)
    paint(scene, cover * np.float32(rng.uniform(0.5, 0.95)), base, clouds)
    part = rng.uniform(0.35, 0.8) * reach
    inner = filled(circle(centre + rng.normal(0, 8, 2), part), FRAME) * cover
    inner = blurred(inner, float(rng.uniform(0.7, 3.0)))
    paint(scene, inner * np.float32(rng.uniform(0.4, 0.95)), base + rng.normal(0, 13), clouds)
    if rng.random() < 0.7:
        hub = filled(circle(centre + rng.normal(0, 10, 2), rng.uniform(8, 26)), FRAME)
        paint(scene, blurred(hub, 1.2), grey(rng, 33, 48))
    for _ in range(rng.integers(1, 5)):
        at = centre + rng.normal(0, 0.4 * part, 2)
        along = rng.normal(0, 0.6 * part, 2)
        bow = curve(at - along, at + rng.normal(0, 0.3 * part, 2), at + along, 20)
        spot = filled(thick(bow, rng.uniform(1, 14)), FRAME) * cover
        spot = blurred(spot, float(rng.uniform(0.8, 4)))
        paint(scene, spot * np.float32(rng.uniform(0.1, 0.7)), grey(rng, 40, 190))
    edge_light(rng, scene, circle(centre, reach), rng.uniform(0.05, 0.4))
    return cover


def thread(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A wire, bristle or fibre on the rim or in the opening, straight or curled."""
    start = somewhere(rng, pose, 40, 300)
    reach = rng.uniform(50, 330)
    turn = rng.uniform(0, 2 * np.pi)
    end = start + reach * np.array([np.cos(turn), np.sin(turn)])
    handle = (start + end) / 2 + rng.normal(0, rng.choice((0.03, 0.3)) * reach, 2)
    line = curve(start, handle, end, max(8, int(reach / 6)))
    line += np.cumsum(rng.normal(0, rng.uniform(0.0, 0.5), line.shape), axis=0)
    cover = stroked([line], FRAME, int(rng.integers(2, 10)))
    if rng.random() < 0.4:
        cover = blurred(cover, float(rng.uniform(0.8, 2.5)))
    tone = grey(rng, 75, 245) if rng.random() < 0.7 else brown(rng, 90, 170)
    paint(scene, cover * np.float32(rng.uniform(0.5, 1.0)), tone)
    core = stroked([line], FRAME, 1) * np.float32(rng.uniform(0.0, 0.6))
    paint(scene, core, tone + 40)
    return cover


def cord(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A twisted cord that hangs out of the opening, over the rim."""
    start = somewhere(rng, pose, 40, 185)
    outward = np.arctan2(start[1] - pose.y, start[0] - pose.x) + rng.normal(0, 0.5)
    reach = rng.uniform(180, 520)
    end = start + reach * np.array([np.cos(outward), np.sin(outward)])
    handle = (start + end) / 2 + rng.normal(0, 0.1 * reach, 2)
    half = rng.uniform(7, 16)
    line = curve(start, handle, end, 80)
    border = thick(line, half * (1 + 0.12 * np.sin(np.linspace(0, reach / half, 80))))
    cover = filled(border, FRAME)
    tint = brown(rng, 95, 215) if rng.random() < 0.7 else grey(rng, 60, 200)
    paint(scene, cover, tint * np.float32(0.3))
    strands = []
    pitch = half * rng.uniform(0.9, 1.5)
    for at in np.arange(0.0, reach, pitch):
        k = min(int(at / reach * 79), 78)
        along = line[k + 1] - line[k]
        along = along / max(float(np.linalg.norm(along)), 1e-6)
        aside = np.array([-along[1], along[0]])
        strands.append(np.stack([line[k] - 0.75 * half * aside - 0.4 * half * along,
                                 line[k] + 0.75 * half * aside + 0.6 * half * along]))  # fmt: skip
    lit = stroked(strands, FRAME, max(3, int(half * rng.uniform(0.5, 0.8))))
    lit = blurred(lit, float(rng.uniform(1.0, 2.5))) * cover
    fuzz = noise(rng, SIDE, SIDE, (2, 4)) * np.float32(rng.uniform(3, 14))
    paint(scene, lit * np.float32(rng.uniform(0.7, 1.0)), tint, fuzz)
    fringe = stroked(hairs(rng, border, int(rng.integers(10, 80)), 9.0, 0.4), FRAME)
    paint(scene, fringe * np.float32(rng.uniform(0.2, 0.7)), tint * np.float32(0.5))
    return cover


def tube(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """A straight translucent strip that reaches in from outside the photo."""
    turn = rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(turn), np.sin(turn)])
    start = np.array([pose.x, pose.y]) + outward * rng.uniform(40, 230) + rng.normal(0, 40, 2)
    direction = turn + rng.normal(0, 0.3)
    end = start + 700 * np.array([np.cos(direction), np.sin(direction)])
    half = rng.uniform(8, 42)
    line = curve(start, (start + end) / 2 + rng.normal(0, 25, 2), end, 40)
    cover = filled(thick(line, half), FRAME)
    cover = blurred(cover, float(rng.uniform(0.8, 2.5)))
    tint = grey(rng, 52, 105) if rng.random() < 0.8 else brown(rng, 80, 160)
    tone = fractal(rng, SIDE, SIDE, (50, 50), 2) * np.float32(rng.uniform(1, 6))
    paint(scene, cover * np.float32(rng.uniform(0.7, 1.0)), tint, tone)
    for offset in rng.uniform(-0.8, 0.8, int(rng.integers(1, 5))):
        stripe = filled(thick(line + offset * half * outward[::-1] * (-1, 1), 0.15 * half), FRAME)
        stripe = blurred(stripe * cover, 2.0)
        glow(scene, stripe * np.float32(rng.normal(0, 14)), (1.0, 1.0, 1.0))
    edge_light(rng, scene, thick(line, half), rng.uniform(0.05, 0.5))
    return cover


def drops(rng: np.random.Generator, scene: Field, pose: Pose) -> Field:
    """Drops of water or oil on the glass: small lenses with a dark rim and a lit spot."""
    total = np.zeros(FRAME, np.float32)
    middle = somewhere(rng, pose, 200, 320)
    tint = grey(rng, 50, 95) if rng.random() < 0.7 else brown(rng, 70, 140)
    for _ in range(rng.integers(1, 9)):
        centre = middle + rng.normal(0, 40, 2)
        reach = rng.uniform(6, 24)
        body = filled(blob(rng, centre, reach * 1.3, 12, 0.9), FRAME)
        body = smoothstep(blurred(body, 2.0), 0.35, 0.65)
        dark = body - smoothstep(blurred(body, 3.0), 0.45, 0.95)
        paint(scene, body * np.float32(rng.uniform(0.4, 0.8)), tint)
        paint(scene, np.maximum(dark, 0) * np.float32(rng.uniform(0.3, 0.9)), tint * 0.45)
        spot = filled(circle(centre + rng.normal(0, 0.3 * reach, 2), 0.18 * reach + 1), FRAME)
        paint(scene, blurred(spot, 1.0) * body, grey(rng, 150, 250))
        total = np.maximum(total, body)
    return total
