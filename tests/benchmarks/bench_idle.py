"""One photo on an idle service, against the pipeline alone on the same photo in the same run.

    make bench

The baseline is the pipeline called in this process: decode, models, maps. What
the service adds is HTTP, storage, the row, the bell, the claim and the wake-up
of the caller. Photos alternate between the two. The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import httpx
import numpy as np

from deploy.local import LocalStack
from worker.inspect.files import open_bundle
from worker.inspect.preprocess import prepare
from worker.train.render import render_bottle

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=40)
    arguments = parser.parse_args()

    inspector, model = open_bundle(ROOT / "worker" / "bundles" / "bottle")
    rng = np.random.default_rng(0)
    image = render_bottle(rng, "broken_small").image
    photo = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    times: dict[str, list[float]] = {"accepted": [], "verdict": [], "pipeline": []}
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=print)
        try:
            stack.start()
            http = httpx.Client(
                base_url=stack.url, headers={"Authorization": f"Bearer {stack.admin_key}"}
            )
            for index in range(arguments.photos + 5):
                started = time.perf_counter()
                answer = http.post("/v1/inspections", files={"file": ("x.png", photo)})
                accepted = time.perf_counter()
                answer = http.get(f"{answer.headers['Location']}?wait=20", timeout=30)
                finished = time.perf_counter()
                if answer.json()["status"] != "succeeded":
                    raise SystemExit(f"not judged: {answer.text}")
                judgement = inspector.judge([prepare(photo)], [model])[0]
                _ = judgement.overlay, judgement.anomaly_map
                alone = time.perf_counter()
                if index >= 5:  # the first ones warm both
                    times["accepted"].append((accepted - started) * 1000)
                    times["verdict"].append((finished - started) * 1000)
                    times["pipeline"].append((alone - finished) * 1000)
        finally:
            stack.stop()
    for name, what in (
        ("accepted", "submit to 202"),
        ("verdict", "submit to verdict"),
        ("pipeline", "the pipeline alone"),
    ):
        values = sorted(times[name])
        print(
            f"{what:20} p50 {statistics.median(values):7.1f} ms   "
            f"p95 {values[int(len(values) * 0.95)]:7.1f} ms   worst {values[-1]:7.1f} ms"
        )
    ratio = statistics.median(times["verdict"]) / statistics.median(times["pipeline"])
    print(f"service / pipeline   {ratio:.2f}")
    print(
        json.dumps(
            {
                "bench": "idle",
                "accepted_ms_p50": round(statistics.median(times["accepted"]), 1),
                "verdict_ms_p50": round(statistics.median(times["verdict"]), 1),
                "ratios": {"pipeline": round(ratio, 2)},
                "photos": arguments.photos,
            }
        )
    )


if __name__ == "__main__":
    main()
