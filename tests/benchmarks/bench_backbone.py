"""The bundled backbone against random ones, on photos of your own.

    .venv/bin/python tests/benchmarks/bench_backbone.py DATA [DATA …]

DATA: folders in MVTec layout with good and defective photos. A frozen random DenseNet-121 with
calibrated batch norms is a strong floor for small local differences, so it is the baseline: the
same layers, the same calibration pictures, the same photos and folds. What is compared is the
out-of-fold AUROC of a logistic regression on the 1024 features, over all photos of a folder,
with the regularisation that suits each backbone best. The last line is JSON.
"""

import argparse
import json
import platform
import statistics
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from worker.inspect.backbone import build_backbone, freeze, load_backbone, pool
from worker.inspect.inputs import to_classifier_input
from worker.inspect.preprocess import prepare
from worker.train.backbone import PICTURES, calibrate_batch_norms, render_mix
from worker.train.dataset import GOOD, SPLITS, photo_files
from worker.train.sources import bundled_backbone

FOLDS = 5
REGULARISATIONS = (1e-3, 1e-2, 1e-1)


def random_backbone(seed: int, pictures: NDArray[np.uint8]) -> nn.Module:
    torch.manual_seed(seed)
    backbone = build_backbone()
    calibrate_batch_norms(backbone, pictures)
    return freeze(backbone)


@torch.inference_mode()
def fingerprints(backbone: nn.Module, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    return torch.cat(
        [
            pool(backbone(to_classifier_input(photos[first : first + 16])))
            for first in range(0, len(photos), 16)
        ]
    ).numpy()


def auroc(features: NDArray[np.float32], is_defective: NDArray[np.bool_], draws: int) -> float:
    """Mean over draws of the folds, for the best regularisation."""
    return max(
        statistics.mean(
            roc_auc_score(
                is_defective,
                cross_val_predict(
                    make_pipeline(
                        StandardScaler(),
                        LogisticRegression(C=strength, class_weight="balanced", max_iter=3000),
                    ),
                    features,
                    is_defective,
                    cv=StratifiedKFold(FOLDS, shuffle=True, random_state=draw),
                    method="decision_function",
                ),
            )
            for draw in range(draws)
        )
        for strength in REGULARISATIONS
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="+", help="folders in MVTec layout")
    parser.add_argument("--random", type=int, default=3, help="random backbones")
    parser.add_argument("--draws", type=int, default=3, help="draws of the folds")
    arguments = parser.parse_args()
    pictures = render_mix(0, PICTURES)
    backbones = {
        "bundled": load_backbone(bundled_backbone().path),
        **{f"random {n}": random_backbone(n, pictures) for n in range(arguments.random)},
    }
    results = {}
    for data in arguments.data:
        files = photo_files(data, SPLITS)
        photos = np.stack([prepare(path.read_bytes()).pixels for _, _, path in files])
        is_defective = np.array([label != GOOD for _, label, _ in files])
        found = {}
        for name, backbone in backbones.items():
            found[name] = auroc(fingerprints(backbone, photos), is_defective, arguments.draws)
            print(f"{data.name:<16}{name:<12}AUROC {found[name]:.4f}", flush=True)
        at_random = statistics.mean(v for name, v in found.items() if name != "bundled")
        results[data.name] = {
            **found,
            # Of the pairs of a good and a defective photo: how many more does random order wrongly?
            "errors_of_random_to_bundled": (1 - at_random) / max(1e-9, 1 - found["bundled"]),
        }
    print(
        json.dumps(
            {
                "bench": "backbone",
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
                "auroc": results,
            }
        )
    )


if __name__ == "__main__":
    main()
