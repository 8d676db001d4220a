"""Baseline of the service's benchmark: the obvious pipeline, served by BentoML.

BENCH_BUNDLE=… bentoml serve bentoml_server:Inspection --port PORT
"""

import os
from pathlib import Path

import bentoml
from obvious import Obvious

from worker.inspect.bundle import load_bundle


@bentoml.service(workers=1, traffic={"timeout": 120, "concurrency": 64})
class Inspection:
    def __init__(self) -> None:
        self.obvious = Obvious(load_bundle(Path(os.environ["BENCH_BUNDLE"])))

    @bentoml.api(batchable=True, max_batch_size=8, max_latency_ms=60_000, route="/predict")
    def predict(self, file: list[Path]) -> list[dict[str, object]]:
        return [
            {"defect_probability": probability, "mse": mse, "bytes": len(overlay)}
            for probability, mse, overlay in self.obvious.judge(
                [path.read_bytes() for path in file]
            )
        ]
