"""Baseline of the service's benchmark: the same models in plain PyTorch, served by LitServe.

python litserve_server.py BUNDLE PORT
"""

import sys
from pathlib import Path

import litserve
from fastapi import Request

from worker.inspect.bundle import load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector, Judgement
from worker.inspect.preprocess import Photo, prepare


class Inspection(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load_bundle(Path(sys.argv[1]))
        sha256 = self.model.manifest.backbone.sha256
        self.inspector = Inspector(TorchEngine(self.model.backbone, sha256=sha256))

    def decode_request(self, request: Request) -> Photo:
        return prepare(request["file"].file.read())

    def batch(self, inputs: list[Photo]) -> list[Photo]:
        return list(inputs)

    def predict(self, photos: list[Photo]) -> list[Judgement]:
        return self.inspector.judge(photos, [self.model] * len(photos))

    def unbatch(self, output: list[Judgement]) -> list[Judgement]:
        return output

    def encode_response(self, output: Judgement) -> dict[str, object]:
        return {
            "defect_probability": output.scores.defect_probability,
            "verdict": output.outcome.verdict.value,
            "bytes": len(output.overlay()) + len(output.anomaly_map()),
        }


if __name__ == "__main__":
    api = Inspection(max_batch_size=8, batch_timeout=0.02)
    litserve.LitServer(api, accelerator="cpu", timeout=120).run(
        host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning"
    )
