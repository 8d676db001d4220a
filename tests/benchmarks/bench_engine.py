"""The pipeline against the obvious one, and against the network alone, in the same run.

    defectscope bench engine

Files to verdicts and drawn maps. Two baselines:

- obvious: what the method's description leads to when it is written down step by step. One photo
  at a time, torch in eager mode, Grad-CAM as a second pass by the library that everyone uses, the
  overlay as PNG.
- raw: the backbone alone in OpenVINO, in the precision that was chosen, its inputs in memory: the
  limit of what a pipeline around it can reach.

Rounds alternate. The last line is JSON.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import BOTTLE, alternate, finish, judge, render_photos, tell, tell_ratio
from numpy.typing import NDArray
from obvious import Obvious

from worker.inspect.bundle import ProductModel
from worker.inspect.engines import openvino_engine
from worker.inspect.engines.choice import AUTO
from worker.inspect.engines.openvino_engine import read_graph
from worker.inspect.engines.openvino_import import ov
from worker.inspect.engines.quantised import read_quantised_graph
from worker.inspect.files import open_bundle
from worker.inspect.preprocess import prepare


def raw(model: ProductModel, engine: str, pixels: NDArray[np.uint8]) -> Callable[[], None]:
    """The backbone alone, as OpenVINO's own queue runs it; nothing is done with its output."""
    sha256 = model.manifest.backbone.sha256
    if engine == openvino_engine.INT8 and model.quantised is not None:
        graph = read_quantised_graph(model.quantised)
    else:
        in_bf16 = engine == openvino_engine.BF16
        graph = read_graph(model.backbone, sha256=sha256, in_bf16=in_bf16)
    precision = "bf16" if engine == openvino_engine.BF16 else "f32"
    network = ov.Core().compile_model(
        graph,
        "CPU",
        {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision},
    )
    requests = ov.AsyncInferQueue(network)

    def run() -> None:
        for index in range(len(pixels)):
            requests.start_async(pixels[index : index + 1], share_inputs=True)
        requests.wait_all()

    return run


def write(folder: Path, photos: list[bytes], suffix: str) -> list[Path]:
    paths = [folder / f"{number:03}{suffix}" for number in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        path.write_bytes(photo)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bundle", type=Path, default=BOTTLE)
    parser.add_argument("--engine", default=AUTO)
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()

    inspector, model = open_bundle(arguments.bundle, engine=arguments.engine)
    obvious = Obvious(model)
    few = render_photos(max(4, arguments.photos // 12), ".png")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pngs = write(folder, render_photos(arguments.photos, ".png"), ".png")
        jpegs = write(folder, render_photos(arguments.photos, ".jpg"), ".jpg")
        pixels = np.stack([prepare(path.read_bytes()).pixels for path in jpegs])
        rates = alternate(
            {
                "obvious": (lambda: [obvious.judge([data]) for data in few], len(few)),
                "png": (lambda: judge(inspector, model, pngs), len(pngs)),
                "jpeg": (lambda: judge(inspector, model, jpegs), len(jpegs)),
                "raw": (raw(model, inspector.engine.name, pixels), len(pixels)),
            },
            rounds=arguments.rounds,
        )
        latencies = []
        for path in jpegs[:40]:
            started = time.perf_counter()
            judge(inspector, model, [path])
            latencies.append((time.perf_counter() - started) * 1000)
    ratios = {
        "obvious": rates["png"].over(rates["obvious"]),
        "raw": rates["jpeg"].over(rates["raw"]),
    }
    if not arguments.json:
        tell("obvious pipeline, PNG", rates["obvious"])
        tell(f"{inspector.engine.name}, PNG", rates["png"])
        tell(f"{inspector.engine.name}, JPEG", rates["jpeg"])
        tell("the network alone", rates["raw"])
        tell_ratio("PNG against obvious", ratios["obvious"])
        tell_ratio("JPEG against the network alone", ratios["raw"])
        print(f"{'one JPEG on an idle machine':34} {statistics.median(latencies):8.1f} ms p50")
    finish(
        {
            "bench": "engine",
            "engine": inspector.engine.name,
            "images_per_s": round(rates["jpeg"].median, 2),
            "images_per_s_png": round(rates["png"].median, 2),
            "latency_ms_p50": round(statistics.median(latencies), 1),
            "ratios": {name: ratio["median"] for name, ratio in ratios.items()},
            "spread": {name: [ratio["low"], ratio["high"]] for name, ratio in ratios.items()},
            "photos": f"{arguments.photos} rendered, 900 x 900",
        },
        as_json=arguments.json,
    )


if __name__ == "__main__":
    main()
