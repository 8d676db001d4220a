"""Baselines of the service's benchmark, served by LitServe with its own batching.

python litserve_server.py BUNDLE PORT [--tuned]

The obvious pipeline (obvious.py), or with `--tuned` our own on its engine in plain PyTorch: one
pass for verdict and Grad-CAM, and memory laid out for the CPU.
"""

import sys
from pathlib import Path

import litserve
from fastapi import Request
from obvious import Obvious

from worker.inspect.bundle import load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector
from worker.inspect.preprocess import prepare


class Inspection(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load_bundle(Path(sys.argv[1]))
        if "--tuned" in sys.argv:
            sha256 = self.model.manifest.backbone.sha256
            self.inspector = Inspector(TorchEngine(self.model.backbone, sha256=sha256))
        else:
            self.obvious = Obvious(self.model)

    def decode_request(self, request: Request) -> bytes:
        data: bytes = request["file"].file.read()
        return data

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return list(inputs)

    def predict(self, files: list[bytes]) -> list[dict[str, object]]:
        if "--tuned" not in sys.argv:
            return [
                {"defect_probability": probability, "mse": mse, "bytes": len(overlay)}
                for probability, mse, overlay in self.obvious.judge(files)
            ]
        photos = [prepare(data) for data in files]
        return [
            {
                "defect_probability": judgement.scores.defect_probability,
                "mse": judgement.scores.mse,
                "bytes": len(judgement.overlay()) + len(judgement.anomaly_map()),
            }
            for judgement in self.inspector.judge(photos, [self.model] * len(photos))
        ]

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


if __name__ == "__main__":
    api = Inspection(max_batch_size=8, batch_timeout=0.02)
    litserve.LitServer(api, accelerator="cpu", timeout=120).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning"
    )
