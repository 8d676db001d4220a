"""What the benchmarks share: photos, rounds that alternate, and how results are printed."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from worker.inspect.bundle import ProductModel
from worker.inspect.files import judge_files
from worker.inspect.pipeline import Inspector, Judgement
from worker.train.render import render_bottle

ROOT = Path(__file__).parents[2]
BOTTLE = ROOT / "worker" / "bundles" / "bottle"
LABELS = ("good", "broken_large", "broken_small", "contamination")


def render_photos(count: int, suffix: str, *, seed: int = 0) -> list[bytes]:
    """Rendered bottles, 900 x 900, encoded as .png or .jpg."""
    rng = np.random.default_rng(seed)
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix == ".jpg" else []
    photos = []
    for index in range(count):
        image = cv2.cvtColor(render_bottle(rng, LABELS[index % 4]).image, cv2.COLOR_RGB2BGR)
        photos.append(cv2.imencode(suffix, image, options)[1].tobytes())
    return photos


def judge(inspector: Inspector, model: ProductModel, paths: Sequence[Path]) -> None:
    """Files to verdicts and pictures, as a worker does it, in one process without a service."""
    for path, judgement in judge_files(inspector, model, paths):
        if not isinstance(judgement, Judgement):
            raise SystemExit(f"{path}: {judgement}")
        judgement.overlay()
        judgement.anomaly_map()


@dataclass(frozen=True)
class Rates:
    """Units per second of one contender, one value a round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def over(self, baseline: "Rates") -> dict[str, float]:
        """The ratio to a baseline: its rounds ran beside ours."""
        ratios = [a / b for a, b in zip(self.values, baseline.values, strict=True)]
        return {
            "median": round(statistics.median(ratios), 2),
            "low": round(min(ratios), 2),
            "high": round(max(ratios), 2),
        }


def alternate(
    contenders: Mapping[str, tuple[Callable[[], object], int]], *, rounds: int
) -> dict[str, Rates]:
    """Run all contenders (what to run, and how many units that is) in turn, `rounds` times.

    So a machine that is noisy for a while troubles all alike. Each is run once before, to warm.
    """
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, (run, units) in contenders.items():
            started = time.perf_counter()
            run()
            if number:
                rates[name].append(units / (time.perf_counter() - started))
    return {name: Rates(values) for name, values in rates.items()}


def machine() -> dict[str, Any]:
    """Where it was measured."""
    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    packages = ("torch", "openvino", "opencv-python-headless", "numpy", "fastapi", "sqlalchemy")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def tell(name: str, rates: Rates, unit: str = "images/s") -> None:
    print(
        f"{name:34} {rates.median:8.2f} {unit}  "
        f"({min(rates.values):.2f} to {max(rates.values):.2f} over {len(rates.values)} rounds)"
    )


def tell_ratio(name: str, ratio: Mapping[str, float]) -> None:
    print(f"{name:34} {ratio['median']:8.2f} x         ({ratio['low']:.2f} to {ratio['high']:.2f})")


def finish(document: Mapping[str, Any], *, as_json: bool) -> None:
    """The machine, and as the last line the whole result as JSON."""
    whole = {**document, "machine": machine()}
    if not as_json:
        print(", ".join(f"{name} {value}" for name, value in whole["machine"].items()))
    print(json.dumps(whole))
