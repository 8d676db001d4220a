"""Draws the examples of the page "How it works": samples as the bundled model judges them.

    .venv/bin/python deploy/readme/draw_examples.py

Photo, what the autoencoder makes of it, Grad-CAM and anomaly map of each, and a line of figures.
A test says when the bundled model is another one than the examples were drawn with.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shared.sample_photos import SAMPLES
from worker.inspect.bundle import ProductModel
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.inputs import to_autoencoder_input
from worker.inspect.overlay import encode
from worker.inspect.pipeline import Judgement

_ROOT = Path(__file__).parents[2]
_PICTURES = _ROOT / "api" / "web" / "static"
_FIGURES = _ROOT / "api" / "web" / "examples.json"
_SHOWN = {
    "good": "bottle-3-good.jpg",
    "held": "bottle-2-broken-large.jpg",
    "broken_small": "bottle-4-broken-small.jpg",
    "contamination": "bottle-6-contamination.jpg",
}


def main() -> None:
    inspector, model = open_bundle(_ROOT / "worker" / "bundles" / "bottle")
    figures = {}
    paths = [SAMPLES / name for name in _SHOWN.values()]
    for name, (path, judgement) in zip(_SHOWN, judge_files(inspector, model, paths), strict=True):
        if not isinstance(judgement, Judgement):
            raise SystemExit(f"{path}: {judgement}")
        for kind, jpeg in {
            "photo": encode(judgement.photo),
            "rebuilt": encode(_rebuilt(model, judgement.photo)),
            "gradcam": judgement.overlay(),
            "anomaly": judgement.anomaly_map(),
        }.items():
            (_PICTURES / f"example-{name}-{kind}.jpg").write_bytes(jpeg)
        figures[name] = {
            "sample": path.name,
            "defect_probability": round(judgement.scores.defect_probability, 4),
            "anomaly_score": round(judgement.scores.anomaly_score, 2),
            "verdict": judgement.outcome.verdict,
            "disposition": judgement.outcome.disposition,
        }
    drawn = {
        "model": model.manifest.model.sha256,
        "thresholds": model.manifest.thresholds.model_dump(),
        "min_side": model.manifest.quality.min_side,
        "examples": figures,
    }
    _FIGURES.write_text(json.dumps(drawn, indent=2) + "\n")


def _rebuilt(model: ProductModel, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    with torch.inference_mode():
        rebuilt = model.parts.autoencoder(to_autoencoder_input(torch.from_numpy(photo)[None]))
    pixels: NDArray[np.uint8] = (rebuilt[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return pixels


if __name__ == "__main__":
    main()
