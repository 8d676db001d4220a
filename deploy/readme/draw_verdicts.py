"""Draws the README's picture: photo, Grad-CAM and anomaly map of three sample photos.

.venv/bin/python deploy/readme/draw_verdicts.py
"""

from pathlib import Path

import cv2
import numpy as np

from shared.sample_photos import SAMPLES
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.overlay import encode
from worker.inspect.pipeline import Judgement

_BUNDLES = Path(__file__).parents[2] / "worker" / "bundles"
_SHOWN = ("bottle-3-good.jpg", "bottle-4-broken-small.jpg", "bottle-6-contamination.jpg")
_GAP = 8
"""Pixels of white between the pictures."""


def main() -> None:
    inspector, model = open_bundle(_BUNDLES / "bottle")
    rows = []
    for path, judgement in judge_files(inspector, model, [SAMPLES / name for name in _SHOWN]):
        if not isinstance(judgement, Judgement):
            raise SystemExit(f"{path}: {judgement}")
        pictures = (encode(judgement.photo), judgement.overlay(), judgement.anomaly_map())
        rows.append(_beside([_decoded(jpeg) for jpeg in pictures], axis=1))
    is_written = cv2.imwrite(
        str(Path(__file__).with_name("verdicts.jpg")),
        _beside(rows, axis=0),
        [cv2.IMWRITE_JPEG_QUALITY, 88],
    )
    if not is_written:
        raise SystemExit("the picture could not be written")


def _decoded(jpeg: bytes) -> cv2.typing.MatLike:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise SystemExit("a map is no picture")
    return picture


def _beside(pictures: list[cv2.typing.MatLike], *, axis: int) -> cv2.typing.MatLike:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=axis)


if __name__ == "__main__":
    main()
