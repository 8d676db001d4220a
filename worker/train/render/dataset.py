"""A folder of rendered photos in MVTec layout."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from shared.errors import InvalidInput
from worker.train.render.bottle import LABELS, render_bottle
from worker.train.render.geometry import SIDE

_DEFECTS = tuple(label for label in LABELS if label != "good")


def plan(count: int) -> list[tuple[str, str]]:
    """Split and label of each of `count` photos: which folder it goes to.

    A tenth each is test/good and every defect type; the rest, some 60 %, is train/good.
    Of the defects and test/good there is at least one each.
    Raises InvalidInput if `count` is too small for one of each.
    """
    if count < 5:
        raise InvalidInput(
            f"{count} photos are too few for one of each kind: ask for 5 or more", field="count"
        )
    tenth = max(1, count // 10)
    photos = [("train", "good")] * (count - 4 * tenth) + [("test", "good")] * tenth
    for defect in _DEFECTS:
        photos += [("test", defect)] * tenth
    return photos


def render_dataset(
    out: Path,
    *,
    count: int,
    seed: int,
    size: int = SIDE,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `count` photos of `size` pixels a side, and their masks, under `out`.

    train/good, test/<label> and ground_truth/<defect>/NNN_mask.png, as in MVTec.
    Photo number k depends on the seed and k alone. `progress` hears (done, count)
    after each. Raises InvalidInput if `out` holds something already.
    """
    photos = plan(count)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is not empty: name a new or empty folder", field="out")
    numbers: dict[tuple[str, str], int] = {}
    for index, (split, label) in enumerate(photos):
        number = numbers.get((split, label), 0)
        numbers[split, label] = number + 1
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        rendered = render_bottle(rng, label, size)
        _write(out / split / label / f"{number:03d}.png", rendered.image[..., ::-1])
        if label != "good":
            mask = rendered.mask.astype(np.uint8) * 255
            _write(out / "ground_truth" / label / f"{number:03d}_mask.png", mask)
        if progress is not None:
            progress(index + 1, count)


def _write(path: Path, pixels: "np.typing.NDArray[np.uint8]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise OSError(f"could not encode {path.name}")
    path.write_bytes(encoded.tobytes())
