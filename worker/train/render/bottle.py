"""One rendered photo of a bottle: glass, then damage, then camera."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from worker.train.render.breakage import break_glass
from worker.train.render.camera import photograph
from worker.train.render.contamination import contaminate
from worker.train.render.geometry import SIDE, draw_pose
from worker.train.render.glass import add_depth_glow, intact_glass
from worker.train.render.strip import unroll

LABELS = ("good", "broken_large", "broken_small", "contamination")


@dataclass(frozen=True)
class Rendered:
    """A photo and where its defect is."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    mask: NDArray[np.bool_]
    """(H, W), true on defective pixels; all false for a good bottle."""


def render_bottle(rng: np.random.Generator, label: str, size: int = SIDE) -> Rendered:
    """A photo (size, size, 3) of a bottle with the defect that `label` names.

    The scene is always composed at 900 pixels and then resized, so that one seed
    shows one bottle whatever the size. Raises ValueError for an unknown label.
    """
    if label not in LABELS:
        raise ValueError(f"label must be one of {', '.join(LABELS)}, not {label!r}")
    pose = draw_pose(rng)
    radius, angle = pose.to_polar()
    strip = intact_glass(rng)
    scene = unroll(strip, radius, angle)
    add_depth_glow(rng, scene, radius, pose)
    mask = np.zeros((SIDE, SIDE), np.bool_)
    if label in ("broken_large", "broken_small"):
        mask = break_glass(rng, scene, pose, (radius, angle), is_large=label == "broken_large")
    elif label == "contamination":
        mask = contaminate(rng, scene, pose)
    image = photograph(rng, scene)
    if size != SIDE:
        shrinks = cv2.INTER_AREA if size < SIDE else cv2.INTER_CUBIC
        image = cv2.resize(image, (size, size), interpolation=shrinks).astype(np.uint8)
        coverage = cv2.resize(mask.astype(np.float32), (size, size), interpolation=shrinks)
        mask = coverage >= 0.5
    return Rendered(image, mask)
