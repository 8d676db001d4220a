"""How good a bundle is on a folder of photos whose labels are known.

Every photo goes through the pipeline that serves. The figures at the top are
over photos that the bundle has not seen in training, known by their content;
`whole_folder` includes those that it has seen and is no measure of quality: it
is there to be compared with what a service says of the same folder.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from shared.errors import DefectScopeError, UnusableData
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from worker.inspect.files import judge_files, open_bundle
from worker.train.dataset import GOOD, photo_files
from worker.train.progress import Progress, silent


@dataclass(frozen=True)
class JudgedPhoto:
    path: str
    """Relative to the evaluated folder."""
    label: str
    is_seen: bool
    """The bundle was trained or calibrated on it."""
    scores: Scores
    outcome: Outcome

    @property
    def is_defective(self) -> bool:
        return self.label != GOOD

    @property
    def is_escape(self) -> bool:
        """A defective part that passes with nobody looking."""
        return self.is_defective and self.outcome.disposition is Disposition.PASS


def evaluate(bundle: Path, data: Path, *, progress: Progress = silent) -> dict[str, Any]:
    """Judge DATA/test with a bundle and measure: a document that JSON can hold.

    A figure that cannot be computed is None, and `notes` says why.
    Raises DamagedBundle, and UnusableData naming files that cannot be judged.
    """
    inspector, model = open_bundle(bundle)
    files = photo_files(data, ("test",))
    labels = {path: label for _, label, path in files}
    seen = frozenset(model.manifest.data.trained_on)
    judged: list[JudgedPhoto] = []
    broken: list[str] = []
    for path, judgement in judge_files(inspector, model, list(labels)):
        if isinstance(judgement, DefectScopeError):
            broken.append(f"- {path}: {judgement}. Repair or remove it.")
        else:
            digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
            judged.append(
                JudgedPhoto(
                    path.relative_to(data).as_posix(),
                    labels[path],
                    digest in seen,
                    judgement.scores,
                    judgement.outcome,
                )
            )
        progress("judging photos", len(judged) + len(broken), len(files))
    if broken:
        raise UnusableData(f"{data} cannot be evaluated:\n" + "\n".join(broken))
    unseen = [photo for photo in judged if not photo.is_seen]
    return {
        "bundle": model.digest,
        "product": model.manifest.product,
        "engine": inspector.engine.name,
        "thresholds": model.manifest.thresholds.model_dump(),
        **measure(unseen),
        "seen_in_training": len(judged) - len(unseen),
        "notes": _notes(judged, unseen),
        "whole_folder": {
            "not_a_measure_of_quality": "includes photos that the bundle was trained on",
            "seen_in_training": len(judged) - len(unseen),
            **measure(judged),
        },
        "photos": [_row(photo) for photo in judged],
    }


def measure(photos: Sequence[JudgedPhoto]) -> dict[str, Any]:
    """Figures over photos; those that need both classes are None where one is missing."""
    good = [photo for photo in photos if not photo.is_defective]
    defective = [photo for photo in photos if photo.is_defective]
    return {
        "images": len(photos),
        "good": len(good),
        "defective": len(defective),
        "classifier": {
            "auroc": _auroc(photos, _probability),
            "average_precision": _average_precision(photos, _probability),
            **_called(photos, lambda photo: photo.outcome.is_defective),
        },
        "autoencoder": {
            "auroc": _auroc(photos, _anomaly),
            "mse_auroc": _auroc(photos, _mse),
            "average_precision": _average_precision(photos, _anomaly),
            **_called(photos, lambda photo: photo.outcome.is_anomalous),
        },
        "combined": {
            "escapes": sum(photo.is_escape for photo in defective),
            "rejected_defects": _count(defective, Disposition.REJECT),
            "held_defects": _count(defective, Disposition.HOLD),
            "passed_good": _count(good, Disposition.PASS),
            "held_good": _count(good, Disposition.HOLD),
            "rejected_good": _count(good, Disposition.REJECT),
            "review_load_on_good": _share(_count(good, Disposition.HOLD), len(good)),
            "undecidable": sum(photo.outcome.verdict is Verdict.UNDECIDABLE for photo in photos),
        },
        "by_type": {label: _of_type(photos, label) for label in sorted({p.label for p in photos})},
    }


def _of_type(photos: Sequence[JudgedPhoto], label: str) -> dict[str, Any]:
    of_type = [photo for photo in photos if photo.label == label]
    against_good = [photo for photo in photos if not photo.is_defective or photo.label == label]
    return {
        "images": len(of_type),
        "called_defective": sum(photo.outcome.is_defective for photo in of_type),
        "called_anomalous": sum(photo.outcome.is_anomalous for photo in of_type),
        "held": _count(of_type, Disposition.HOLD),
        "escapes": sum(photo.is_escape for photo in of_type),
        "classifier_auroc": None if label == GOOD else _auroc(against_good, _probability),
        "autoencoder_auroc": None if label == GOOD else _auroc(against_good, _anomaly),
    }


def _called(
    photos: Sequence[JudgedPhoto], is_called: Callable[[JudgedPhoto], bool]
) -> dict[str, float | None]:
    """F1, recall and false-alarm rate of one model's opinion at the bundle's threshold."""
    hits = sum(photo.is_defective and is_called(photo) for photo in photos)
    alarms = sum(not photo.is_defective and is_called(photo) for photo in photos)
    defective = sum(photo.is_defective for photo in photos)
    return {
        "f1": _share(2 * hits, hits + alarms + defective) if defective else None,
        "recall": _share(hits, defective),
        "false_alarm_rate": _share(alarms, len(photos) - defective),
    }


def _probability(photo: JudgedPhoto) -> float:
    return photo.scores.defect_probability


def _anomaly(photo: JudgedPhoto) -> float:
    return photo.scores.anomaly_score


def _mse(photo: JudgedPhoto) -> float:
    return photo.scores.mse


def _auroc(photos: Sequence[JudgedPhoto], score: Callable[[JudgedPhoto], float]) -> float | None:
    labels = np.array([photo.is_defective for photo in photos])
    if len(set(labels.tolist())) < 2:
        return None
    return float(roc_auc_score(labels, [score(photo) for photo in photos]))


def _average_precision(
    photos: Sequence[JudgedPhoto], score: Callable[[JudgedPhoto], float]
) -> float | None:
    labels = np.array([photo.is_defective for photo in photos])
    if len(set(labels.tolist())) < 2:
        return None
    return float(average_precision_score(labels, [score(photo) for photo in photos]))


def _count(photos: Sequence[JudgedPhoto], disposition: Disposition) -> int:
    return sum(photo.outcome.disposition is disposition for photo in photos)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _notes(judged: Sequence[JudgedPhoto], unseen: Sequence[JudgedPhoto]) -> list[str]:
    notes: list[str] = []
    if not unseen:
        return [
            "The bundle was trained on every photo of this folder: nothing can be said of "
            "its quality. Evaluate on photos that it has not seen."
        ]
    if len({photo.is_defective for photo in unseen}) < 2:
        missing = "good" if unseen[0].is_defective else "defective"
        notes.append(
            f"No {missing} photo that the bundle has not seen: figures that need both are left out."
        )
    if len(unseen) < len(judged):
        notes.append(
            f"{len(judged) - len(unseen)} of {len(judged)} photos were trained on and count "
            "only under whole_folder."
        )
    return notes


def _row(photo: JudgedPhoto) -> Mapping[str, Any]:
    return {
        "path": photo.path,
        "label": photo.label,
        "seen_in_training": photo.is_seen,
        **asdict(photo.scores),
        "verdict": photo.outcome.verdict,
        "disposition": photo.outcome.disposition,
        "review_reasons": photo.outcome.review_reasons,
    }
