"""What people are good for: escapes with the queue and without it, and what their decisions teach.

    .venv/bin/python tests/campaigns/learning.py MVTEC/bottle

Photos in MVTec layout, with masks. A third of the defects and a quarter of the good parts are for
measuring and never trained on. Half of the other defects are known from the start; the rest comes
in over the API, is held, decided by simulated reviewers who are always right and draw the mask, and
exported with `defectscope export`. Then the model is trained anew with both folders. Its thresholds
and everything else come from the photos that it may see. `--quick` trains less, to try the campaign
itself: its figures mean nothing. The last line is JSON.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from sklearn.metrics import roc_auc_score

from api.client import DefectScope
from deploy.local import LocalStack
from shared.intervals import exact
from shared.verdicts import Disposition
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.pipeline import Judgement
from worker.train import autoencoder, features, head
from worker.train.dataset import GOOD, photo_files
from worker.train.progress import print_progress
from worker.train.train import train

Photo = tuple[str, Path]
"""Label and file."""

COMMAND = Path(sys.executable).with_name("defectscope")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--product", default="bottle")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        features.COPIES, features.SYNTHETIC = 2, 60
        autoencoder.STEPS, head.STEPS = 60, 800
    known, later, measured = divide(arguments.data, arguments.seed)
    print(f"{counts(known)} known, {counts(later)} come in, {counts(measured)} to measure")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(known, folder / "known")
        before = fit(arguments, folder / "known", [], folder / "before")
        first = measure(before, measured)
        tell("before", first)
        through_the_queue(arguments, before, later, folder)
        after = fit(arguments, folder / "known", [folder / "decided"], folder / "after")
        second = measure(after, measured)
        tell("after", second)
    result = {"campaign": "learning", "quick": arguments.quick, "before": first, "after": second}
    print(json.dumps(result))


def divide(data: Path, seed: int) -> tuple[list[Photo], list[Photo], list[Photo]]:
    """What is known, what comes in later, what is measured on: by type, shuffled by the seed."""
    by_label: dict[str, list[Path]] = {}
    for _, label, path in photo_files(data, ("train", "test")):
        by_label.setdefault(label, []).append(path)
    known: list[Photo] = []
    later: list[Photo] = []
    measured: list[Photo] = []
    for label, paths in by_label.items():
        random.Random(f"{seed} {label}").shuffle(paths)
        share = len(paths) // (4 if label == GOOD else 3)
        rest = paths[share:]
        half = len(rest) * 3 // 4 if label == GOOD else len(rest) // 2
        measured += [(label, path) for path in paths[:share]]
        known += [(label, path) for path in rest[:half]]
        later += [(label, path) for path in rest[half:]]
    return known, later, measured


def copy(photos: Sequence[Photo], folder: Path) -> None:
    """As a folder to train on, with masks; all of it under train/, so all of it is trained on."""
    for number, (label, path) in enumerate(photos):
        target = folder / "train" / label / f"{number:03}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        if (mask := mask_of(label, path)) is not None:
            of = folder / "ground_truth" / label / f"{target.stem}_mask.png"
            of.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(mask, of)


def mask_of(label: str, path: Path) -> Path | None:
    file = path.parents[2] / "ground_truth" / label / f"{path.stem}_mask.png"
    return file if file.exists() else None


def fit(arguments: argparse.Namespace, data: Path, more: Sequence[Path], out: Path) -> Path:
    train(
        data,
        more=more,
        product=arguments.product,
        out=out,
        seed=arguments.seed,
        progress=print_progress,
        warn=lambda warning: print(f"warning: {warning}"),
    )
    return out


def measure(bundle: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    """AUROC of both models, and what escapes without people and with them."""
    inspector, model = open_bundle(bundle)
    truth, probabilities, anomalies = [], [], []
    escapes = {"without": 0, "with": 0}
    held_good = rejected_good = 0
    for (label, _), (path, judgement) in zip(
        photos, judge_files(inspector, model, [path for _, path in photos]), strict=True
    ):
        if not isinstance(judgement, Judgement):
            raise SystemExit(f"{path}: {judgement}")
        is_defective = label != GOOD
        truth.append(is_defective)
        probabilities.append(judgement.scores.defect_probability)
        anomalies.append(judgement.scores.anomaly_score)
        outcome = judgement.outcome
        if is_defective:
            # Without a queue the classifier alone decides, as in the original description.
            escapes["without"] += not outcome.is_defective
            escapes["with"] += outcome.disposition is Disposition.PASS
        else:
            held_good += outcome.disposition is Disposition.HOLD
            rejected_good += outcome.disposition is Disposition.REJECT
    defective, good = sum(truth), len(truth) - sum(truth)
    return {
        "classifier_auroc": round(float(roc_auc_score(truth, probabilities)), 4),
        "autoencoder_auroc": round(float(roc_auc_score(truth, anomalies)), 4),
        "defective": defective,
        "good": good,
        "escapes_without_queue": share(escapes["without"], defective),
        "escapes_with_queue": share(escapes["with"], defective),
        "good_held": share(held_good, good),
        "good_rejected": share(rejected_good, good),
    }


def share(count: int, of: int) -> dict[str, Any]:
    low, high = exact(count, of) or (0.0, 1.0)
    return {"count": count, "of": of, "low": round(low, 3), "high": round(high, 3)}


def through_the_queue(
    arguments: argparse.Namespace, bundle: Path, photos: Sequence[Photo], folder: Path
) -> None:
    """Submit, hold, decide and export them, over the API of a whole stack."""
    stack = LocalStack(folder / "stack", host="127.0.0.1", port=0, tell=lambda _: None)
    try:
        stack.start()
        with (
            DefectScope(stack.url, stack.admin_key) as client,
            httpx.Client(
                base_url=stack.url,
                headers={"Authorization": f"Bearer {stack.admin_key}"},
                timeout=60,
            ) as http,
        ):
            client.publish(bundle, activate=True)
            hold_everything(http, arguments.product)
            for number, (_, path) in enumerate(photos):
                submitted = client.submit(path, product=arguments.product, serial=str(number))
                client.wait(submitted.id, timeout_seconds=120)
            decide_all(http, photos)
        environment = {
            **os.environ,
            "DEFECTSCOPE_URL": stack.url,
            "DEFECTSCOPE_API_KEY": stack.admin_key,
        }
        command = [str(COMMAND), "export", "--product", arguments.product]
        subprocess.run([*command, "--out", str(folder / "decided")], check=True, env=environment)
    finally:
        stack.stop()


def hold_everything(http: httpx.Client, product: str) -> None:
    """A band from 0 to 1 has people look at each part, as while a line starts up."""
    address = f"/v1/products/{product}/thresholds"
    present = http.get(address)
    wanted = present.json()["thresholds"] | {"near_threshold_low": 0, "near_threshold_high": 1}
    changed = http.put(address, json=wanted, headers={"If-Match": present.headers["ETag"]})
    changed.raise_for_status()


def decide_all(http: httpx.Client, photos: Sequence[Photo]) -> None:
    decided = 0
    while (answer := http.post("/v1/reviews/next", json={})).status_code == 200:
        item = answer.json()
        label, path = photos[int(item["inspection"]["part"]["serial"])]
        decision: dict[str, Any] = {"lease_token": item["lease_token"], "verdict": "good"}
        if label != GOOD:
            decision |= {"verdict": "defective", "defect_type": label}
            decision["region"] = region_of(mask_of(label, path))
        http.post(f"/v1/reviews/{item['id']}/decision", json=decision).raise_for_status()
        decided += 1
    if decided != len(photos):
        raise SystemExit(f"{decided} decided of {len(photos)}")


def region_of(file: Path | None) -> list[list[list[float]]] | None:
    """The mask as a person would draw it: a few polygons."""
    if file is None:
        return None
    mask = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True)[:5]:
        points = cv2.approxPolyDP(contour, 4, closed=True)[:100, 0]
        if len(points) >= 3:
            shares = np.clip((points + 0.5) / (mask.shape[1], mask.shape[0]), 0, 1)
            polygons.append(shares.round(4).tolist())
    return polygons or None


def counts(photos: Sequence[Photo]) -> str:
    good = sum(label == GOOD for label, _ in photos)
    return f"{good} good and {len(photos) - good} defective"


def tell(when: str, figures: dict[str, Any]) -> None:
    def of(name: str) -> str:
        part = figures[name]
        return f"{part['count']} of {part['of']} ({part['low']:.1%} to {part['high']:.1%})"

    print(
        f"{when}: AUROC classifier {figures['classifier_auroc']:.3f}, autoencoder "
        f"{figures['autoencoder_auroc']:.3f}; escapes by the classifier alone "
        f"{of('escapes_without_queue')}, with the queue {of('escapes_with_queue')}; good parts "
        f"held {of('good_held')}, rejected {of('good_rejected')}"
    )


if __name__ == "__main__":
    main()
