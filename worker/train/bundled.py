"""The bundled bottle model and its sample photos: rendered, trained and written by one command.

    python -m worker.train.pretraining --seed 0 --checkpoint pretraining.pt --out worker/bundles
    python -m worker.train.bundled --seed 0

No pixel of a photo goes into them, so they can be given to anybody, and made again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from shared.sample_photos import SAMPLES as FOLDER
from worker.train.progress import Progress, print_progress
from worker.train.render import render_bottle, render_dataset
from worker.train.sources import BUNDLES
from worker.train.train import train

PHOTOS = 400
SAMPLES = ("good", "broken_large", "good", "broken_small", "good", "contamination")
_SAMPLE_SEED = 1_000_003
"""Apart from every seed that the training photos use."""


def make_bottle(*, seed: int, folder: Path, progress: Progress) -> None:
    """Render photos of bottles, train on them, and write the bundle to `folder`/bottle."""
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "bottle"
        render_dataset(
            data,
            count=PHOTOS,
            seed=seed,
            progress=lambda done, total: progress("rendering photos", done, total),
        )
        train(
            data,
            product="bottle",
            out=folder / "bottle",
            seed=seed,
            photos_are="photos of bottles, all rendered by this project "
            f"(seed {seed}; dimensions and colours chosen by looking at the photos of MVTec AD "
            "bottle)",
            progress=progress,
        )


def render_samples(*, seed: int, folder: Path) -> list[Path]:
    """Photos for a first look that no training has seen, as JPEG as cameras write it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for number, label in enumerate(SAMPLES, start=1):
        rng = np.random.default_rng([_SAMPLE_SEED, seed, number])
        path = folder / f"bottle-{number}-{label.replace('_', '-')}.jpg"
        image = cv2.cvtColor(render_bottle(rng, label).image, cv2.COLOR_RGB2BGR)
        is_encoded, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        if not is_encoded:
            raise RuntimeError("OpenCV could not encode a JPEG")
        path.write_bytes(jpeg.tobytes())
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled bottle model and samples.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples-only", action="store_true")
    arguments = parser.parse_args()
    for path in render_samples(seed=arguments.seed, folder=FOLDER):
        sys.stdout.write(f"{path}\n")
    if not arguments.samples_only:
        make_bottle(seed=arguments.seed, folder=BUNDLES, progress=print_progress)
        sys.stdout.write(f"{BUNDLES / 'bottle'}\n")


if __name__ == "__main__":
    main()
