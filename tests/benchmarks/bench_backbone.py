"""The bundled backbone against random ones, on photos of your own.

    .venv/bin/python tests/benchmarks/bench_backbone.py DATA [DATA …]

DATA: folders in MVTec layout with good and defective photos. A frozen random DenseNet-121 with
calibrated batch norms is a strong floor for small local differences, so it is the baseline: the
same layers, the same calibration pictures, the same photos and folds, and the same first filters as
pretraining begins with. What is compared is the out-of-fold AUROC of the probes by which training
chooses what the head reads (worker/train/selection.py), with the choice that training would make.
The last line is JSON.
"""

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from worker.inspect.backbone import build_backbone, digest_of, save_backbone
from worker.inspect.engines.choice import exact_engine
from worker.train.backbone import PICTURES, calibrate_batch_norms, render_mix
from worker.train.crossvalidation import draw_folds
from worker.train.dataset import LabelledPhoto, read_dataset
from worker.train.features import CachedFeatures, cache_features
from worker.train.filter_bank import set_first_filters
from worker.train.progress import print_progress
from worker.train.selection import choose, read_probes
from worker.train.sources import bundled_backbone
from worker.train.stages import Stages

FOLDS = 5


def random_backbone(seed: int, pictures: NDArray[np.uint8], folder: Path) -> Path:
    torch.manual_seed(seed)
    backbone = build_backbone()
    set_first_filters(backbone.get_parameter("conv0.weight"))
    calibrate_batch_norms(backbone, pictures)
    path = folder / f"random-{seed}.safetensors"
    save_backbone(backbone.state_dict(), path, provenance=f"random weights, seed {seed}")
    return path


def features_of(photos: list[LabelledPhoto], backbone: Path) -> CachedFeatures:
    engine = exact_engine(backbone, sha256=digest_of(backbone))
    with tempfile.TemporaryDirectory() as scratch:
        stages = Stages(Path(scratch) / "stages", {"backbone": backbone.name})
        return cache_features(
            photos, engine, seed=0, stages=stages, needs_synthetic=False, progress=print_progress
        )


def auroc(photos: list[LabelledPhoto], features: CachedFeatures, *, draw: int) -> float:
    fold_of = draw_folds(photos, folds=FOLDS, seed=draw)
    probes = read_probes(features, fold_of, progress=print_progress)
    chosen = choose(probes, features, np.ones(len(photos), np.bool_))
    return float(roc_auc_score(features.is_defective.numpy(), probes[chosen].margins))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, nargs="+", help="folders in MVTec layout")
    parser.add_argument("--random", type=int, default=3, help="random backbones")
    parser.add_argument("--draws", type=int, default=3, help="draws of the folds")
    arguments = parser.parse_args()
    pictures = render_mix(0, PICTURES)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        backbones = {
            "bundled": bundled_backbone().path,
            **{
                f"random {n}": random_backbone(n, pictures, Path(scratch))
                for n in range(arguments.random)
            },
        }
        for data in arguments.data:
            photos = list(read_dataset(data, seed=0, hold_out=False).trained_on)
            found = {}
            for name, backbone in backbones.items():
                features = features_of(photos, backbone)
                found[name] = statistics.mean(
                    auroc(photos, features, draw=draw) for draw in range(arguments.draws)
                )
                print(f"{data.name:<16}{name:<12}AUROC {found[name]:.4f}", flush=True)
            at_random = statistics.mean(v for name, v in found.items() if name != "bundled")
            results[data.name] = {
                **found,
                # Of the pairs of a good and a defective photo: how many more does random order
                # wrongly?
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
