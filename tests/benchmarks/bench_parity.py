"""Every engine of this machine against plain PyTorch in fp32, photo by photo.

    .venv/bin/python tests/benchmarks/bench_parity.py BUNDLE DATA

DATA: a folder in MVTec layout. The last line is JSON.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from measuring import finish
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from worker.inspect.bundle import ProductModel, load_bundle
from worker.inspect.engines import choice, openvino_engine
from worker.inspect.engines.openvino_engine import OpenVinoEngine, read_graph
from worker.inspect.engines.protocol import Engine
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector, Readings
from worker.inspect.preprocess import prepare
from worker.train.dataset import GOOD, SPLITS, photo_files
from worker.train.quantisation import quantise_graph

_PASS = 32


def read(engine: Engine, model: ProductModel, pixels: NDArray[np.uint8]) -> list[Readings]:
    inspector = Inspector(engine)
    parts = [pixels[first : first + _PASS] for first in range(0, len(pixels), _PASS)]
    return [inspector.read(part, engine.features(part), model) for part in parts]


def column(readings: list[Readings], name: str) -> NDArray[np.float64]:
    return np.concatenate([getattr(some, name).numpy() for some in readings]).astype(np.float64)


def compare(
    reference: list[Readings],
    found: list[Readings],
    model: ProductModel,
    is_defective: NDArray[np.bool_],
) -> dict[str, Any]:
    limits = model.manifest.thresholds
    said, says = (column(some, "defect_probabilities") for some in (reference, found))
    is_near = (said >= limits.near_threshold_low) & (said < limits.near_threshold_high)
    flips = (said >= limits.defect_probability) != (says >= limits.defect_probability)
    anomalies = [column(some, "anomaly_scores") for some in (reference, found)]
    distances = [column(some, "domain_distances") for some in (reference, found)]
    difference = np.abs(said - says)
    return {
        "difference_p99": round(float(np.quantile(difference, 0.99)), 5),
        "difference_max": round(float(difference.max()), 5),
        "flips": int(flips.sum()),
        "flips_outside_the_band": int((flips & ~is_near).sum()),
        "anomaly_flips": int(
            ((anomalies[0] >= limits.anomaly_score) != (anomalies[1] >= limits.anomaly_score)).sum()
        ),
        "domain_flips": int(
            (
                (distances[0] > limits.domain_distance) != (distances[1] > limits.domain_distance)
            ).sum()
        ),
        "auroc_difference": round(
            float(roc_auc_score(is_defective, says) - roc_auc_score(is_defective, said)), 5
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()

    model = load_bundle(arguments.bundle)
    sha256 = model.manifest.backbone.sha256
    files = photo_files(arguments.data, SPLITS)
    pixels = np.stack([prepare(file.read_bytes()).pixels for _, _, file in files])
    is_defective = np.array([label != GOOD for _, label, _ in files])
    reference = read(TorchEngine(model.backbone, sha256=sha256), model, pixels)
    graph = read_graph(model.backbone, sha256=sha256)
    good = list(pixels[~is_defective])
    engines: dict[str, Engine] = {
        openvino_engine.INT8: OpenVinoEngine(
            openvino_engine.INT8, quantise_graph(graph, good), backbone_sha256=sha256
        ),
        **{
            name: OpenVinoEngine(
                name,
                read_graph(model.backbone, sha256=sha256, in_bf16=name == openvino_engine.BF16),
                backbone_sha256=sha256,
            )
            for name in (openvino_engine.BF16, openvino_engine.FP32)
        },
    }
    found = {
        name: compare(reference, read(engine, model, pixels), model, is_defective)
        for name, engine in engines.items()
    }
    chosen = choice.Engines().choose(model).name
    if not arguments.json:
        for name, differences in found.items():
            print(name, ", ".join(f"{what} {value}" for what, value in differences.items()))
        print(f"chosen here: {chosen}")
    finish(
        {"bench": "parity", "photos": len(files), "chosen": chosen, "engines": found},
        as_json=arguments.json,
    )


if __name__ == "__main__":
    main()
