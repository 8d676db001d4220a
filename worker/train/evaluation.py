"""How good a bundle is on a folder of photos whose labels are known.

Every photo goes through the pipeline that serves. The figures at the top are
over photos that the bundle has not seen in training, known by their content;
`whole_folder` includes those that it has seen and is no measure of quality: it
is there to be compared with what a service says of the same folder.
"""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from shared.errors import DefectScopeError, UnusableData
from shared.manifest import SET_BY_A_PERSON, Manifest
from worker.inspect.bundle import ProductModel
from worker.inspect.decode import Pixels
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.preprocess import prepare
from worker.train.checks import Findings
from worker.train.dataset import TEST, check_layout, photo_files
from worker.train.duplicates import parts_of
from worker.train.judged import JudgedPhoto, Maps, row
from worker.train.localisation import read_masks
from worker.train.metrics import figures, measure
from worker.train.progress import Progress, silent
from worker.train.report import Pictures, PictureSource, draw_pictures


def evaluate(
    bundle: Path, data: Path, *, seed: int = 0, progress: Progress = silent
) -> dict[str, Any]:
    """Judge DATA/test with a bundle and measure: a document that JSON can hold.

    A figure that cannot be computed is None, and `notes` says why. Masks under
    DATA/ground_truth are used where there are any; `seed` is that of the resamples.
    Raises DamagedBundle, and UnusableData naming files that cannot be judged.
    """
    inspector, model = open_bundle(bundle)
    findings = Findings()
    check_layout(data, findings, (TEST,))
    files = photo_files(data, (TEST,))
    labels = {path: label for _, label, path in files}
    masks, problems = read_masks(list(labels))
    problems += [f"- {problem}" for problem in findings.problems]
    if problems:
        raise UnusableData(f"{data} cannot be evaluated:\n" + "\n".join(problems))
    seen = model.manifest.data.seen
    digests: dict[str, str] = {}
    judged: list[JudgedPhoto] = []
    pixels: list[Pixels] = []
    for number, (path, judgement) in enumerate(judge_files(inspector, model, list(labels)), 1):
        if isinstance(judgement, DefectScopeError):
            problems.append(f"- {path}: {judgement}. Repair or remove it.")
        else:
            name = path.relative_to(data).as_posix()
            digests[name] = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
            pixels.append(judgement.photo)
            judged.append(
                JudgedPhoto(
                    name,
                    labels[path],
                    digests[name] in seen,
                    judgement.scores,
                    judgement.outcome,
                    model.manifest.thresholds,
                    Maps.of(
                        judgement.attention,
                        judgement.strangeness,
                        judgement.limits,
                        masks.get(path),
                    ),
                )
            )
        progress("judging photos", number, len(files))
    if problems:
        raise UnusableData(f"{data} cannot be evaluated:\n" + "\n".join(problems))
    parts = parts_of(pixels, progress=progress)
    judged = [replace(photo, part=part) for photo, part in zip(judged, parts, strict=True)]
    unseen = [photo for photo in judged if not photo.is_seen]
    measured = measure(unseen, seed=seed)
    return {
        **_identity(model, inspector.engine.name),
        "data_digest": _digest_of([digests[photo.path] for photo in unseen]),
        **measured,
        "seen_in_training": len(judged) - len(unseen),
        "notes": [*findings.warnings, *_notes(judged, unseen, measured["notes"])],
        "whole_folder": {
            "not_a_measure_of_quality": "includes photos that the bundle was trained on",
            "seen_in_training": len(judged) - len(unseen),
            **figures(judged),
        },
        "photos": [row(photo) for photo in judged],
    }


def picture_source(bundle: Path, data: Path) -> PictureSource:
    """Photo and maps of any photo of the folder, judged again when asked for."""
    inspector, model = open_bundle(bundle)

    def pictures(path: str) -> Pictures:
        photo = prepare((data / path).read_bytes())
        (judgement,) = inspector.judge([photo], [model])
        masks, _ = read_masks([data / path])
        maps = Maps.of(
            judgement.attention,
            judgement.strangeness,
            judgement.limits,
            masks.get(data / path),
        )
        return draw_pictures(photo.pixels, maps)

    return pictures


def _identity(model: ProductModel, engine: str) -> dict[str, Any]:
    """What was evaluated, and with what: enough to do it again."""
    manifest = model.manifest
    return {
        "bundle": model.digest,
        "product": manifest.product,
        "engine": engine,
        "thresholds": manifest.thresholds.model_dump(),
        "thresholds_from": _thresholds_from(manifest),
        "evaluated_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trained": {
            "at": manifest.created_at.isoformat(timespec="seconds"),
            "seed": manifest.seed,
            "photos": manifest.data.counts,
            "data_digest": manifest.data.digest,
            "provenance": manifest.provenance,
        },
        "versions": {
            "python": platform.python_version(),
            "defectscope": version("defectscope"),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
        },
    }


def _thresholds_from(manifest: Manifest) -> str:
    if manifest.policy == SET_BY_A_PERSON:
        return "Set by a person; nobody knows whether with photos in view that are measured here."
    chosen = (
        f"Chosen in training from predictions out of fold, the classifier's for {manifest.policy}, "
        "the autoencoder's from good photos alone"
    )
    if manifest.recalibrated_from is not None:
        chosen = (
            f"Moved to where {len(manifest.data.calibrated_on)} photos of good parts from another "
            "camera put them"
        )
    return f"{chosen}; none of the photos measured here had a part in it."


def _digest_of(digests: Sequence[str]) -> str:
    return "sha256:" + hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _notes(
    judged: Sequence[JudgedPhoto], unseen: Sequence[JudgedPhoto], measured: Sequence[str]
) -> list[str]:
    if not unseen:
        return [
            "The bundle was trained on every photo of this folder: nothing can be said of "
            "its quality. Evaluate on photos that it has not seen."
        ]
    notes = list(measured)
    if len(unseen) < len(judged):
        notes.append(
            f"{len(judged) - len(unseen)} of {len(judged)} photos were trained on and count "
            "only under whole_folder."
        )
    return notes
