"""Baseline of the service's benchmark: the same models in plain PyTorch, served by BentoML.

BENCH_BUNDLE=… bentoml serve bentoml_server:Inspection --port PORT
"""

import os
from pathlib import Path

import bentoml

from worker.inspect.bundle import load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector
from worker.inspect.preprocess import prepare


@bentoml.service(workers=1, traffic={"timeout": 120, "concurrency": 64})
class Inspection:
    def __init__(self) -> None:
        self.model = load_bundle(Path(os.environ["BENCH_BUNDLE"]))
        sha256 = self.model.manifest.backbone.sha256
        self.inspector = Inspector(TorchEngine(self.model.backbone, sha256=sha256))

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000, route="/predict")
    def predict(self, file: list[Path]) -> list[dict[str, object]]:
        photos = [prepare(path.read_bytes()) for path in file]
        return [
            {
                "defect_probability": judgement.scores.defect_probability,
                "verdict": judgement.outcome.verdict.value,
                "bytes": len(judgement.overlay()) + len(judgement.anomaly_map()),
            }
            for judgement in self.inspector.judge(photos, [self.model] * len(photos))
        ]
