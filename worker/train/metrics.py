"""Figures of judged photos: what a model is worth, and how sure that is.

Pure, and the same for photos that a bundle judged and for photos judged out of
fold. The rule that nobody may break: a figure is over the photos that are
passed in, and what cannot be computed is None with a note, never a guess.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from shared.intervals import LEVEL, Interval, exact
from shared.verdicts import Disposition, Verdict
from worker.train import curves
from worker.train.dataset import GOOD
from worker.train.intervals import (
    RESAMPLES,
    Resamples,
    exact_auroc,
    in_words,
    percentile,
    resample,
)
from worker.train.judged import Columns, Flags, Floats, JudgedPhoto, columns
from worker.train.localisation import localisation

UNSEEN = "photos not seen in training"


def out_of_fold(folds: int) -> str:
    """`measured_on` of figures from a cross-validation."""
    return f"out of fold, {folds} folds"


def measure(
    photos: Sequence[JudgedPhoto],
    *,
    measured_on: str = UNSEEN,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """All that can be said of judged photos: a document that JSON can hold.

    `figures`, and beside them `intervals` of the same structure (95 %, [low,
    high]), `calibration`, `confusion`, `curves`, `localisation` where photos
    have maps, `in_words` and `notes`. `measured_on` says how the photos came to
    be judged. Seeded: the same photos give the same intervals.
    """
    table = columns(photos)
    has_both = 0 < table.is_defective.sum() < len(photos)
    drawn = resample(table.is_defective, seed=seed, resamples=resamples)
    found = figures(photos)
    return {
        "measured_on": measured_on,
        **found,
        "intervals": {
            "level": LEVEL,
            "resamples": resamples,
            "seed": seed,
            **_intervals(table, drawn if has_both else None, found["combined"]),
            "by_type": {
                label: _of_type_intervals(photos, label, seed=seed, resamples=resamples)
                for label in found["by_type"]
            },
        },
        "calibration": curves.reliability(table, drawn, seed=seed) if has_both else None,
        "confusion": confusion(photos),
        "curves": _curves(table) if has_both else None,
        "localisation": localisation(photos, seed=seed, resamples=resamples)
        if any(photo.maps is not None for photo in photos)
        else None,
        "in_words": _in_words(found),
        "notes": [*_notes(found, table if has_both else None), *_note_on_parts(photos)],
    }


def figures(photos: Sequence[JudgedPhoto]) -> dict[str, Any]:
    """The plain numbers; those that need both classes are None where one is missing."""
    table = columns(photos)
    good = [photo for photo in photos if not photo.is_defective]
    defective = [photo for photo in photos if photo.is_defective]
    return {
        "images": len(photos),
        "good": len(good),
        "defective": len(defective),
        "classifier": {
            "auroc": _auroc(table.is_defective, table.rank),
            "average_precision": _average_precision(table.is_defective, table.rank),
            **_called(table.is_defective, table.called_defective),
        },
        "autoencoder": {
            "auroc": _auroc(table.is_defective, table.anomaly),
            "mse_auroc": _auroc(table.is_defective, table.mse),
            "average_precision": _average_precision(table.is_defective, table.anomaly),
            **_called(table.is_defective, table.called_anomalous),
        },
        "combined": {
            "escapes": sum(photo.is_escape for photo in defective),
            "escape_rate": _share(sum(photo.is_escape for photo in defective), len(defective)),
            "rejected_defects": _count(defective, Disposition.REJECT),
            "held_defects": _count(defective, Disposition.HOLD),
            "passed_good": _count(good, Disposition.PASS),
            "held_good": _count(good, Disposition.HOLD),
            "rejected_good": _count(good, Disposition.REJECT),
            "rejection_rate_of_good": _share(_count(good, Disposition.REJECT), len(good)),
            "review_load_on_good": _share(_count(good, Disposition.HOLD), len(good)),
            "undecidable": sum(photo.outcome.verdict is Verdict.UNDECIDABLE for photo in photos),
        },
        "by_type": {label: _of_type(photos, label) for label in sorted({p.label for p in photos})},
    }


def confusion(photos: Sequence[JudgedPhoto]) -> dict[str, dict[str, dict[str, int]]]:
    """What became of good and of defective parts: by each model alone, and by both together."""

    def count(opinions: dict[str, Callable[[JudgedPhoto], bool]]) -> dict[str, dict[str, int]]:
        return {
            truth: {
                name: sum(is_so(p) for p in photos if p.is_defective == is_defective)
                for name, is_so in opinions.items()
            }
            for truth, is_defective in ((GOOD, False), ("defective", True))
        }

    return {
        "classifier": count(
            {
                "called_good": lambda p: not p.outcome.is_defective,
                "called_defective": lambda p: p.outcome.is_defective,
            }
        ),
        "autoencoder": count(
            {
                "called_good": lambda p: not p.outcome.is_anomalous,
                "called_anomalous": lambda p: p.outcome.is_anomalous,
            }
        ),
        "combined": count(
            {
                "pass": lambda p: p.outcome.disposition is Disposition.PASS,
                "hold": lambda p: p.outcome.disposition is Disposition.HOLD,
                "reject": lambda p: p.outcome.disposition is Disposition.REJECT,
            }
        ),
    }


def _of_type(photos: Sequence[JudgedPhoto], label: str) -> dict[str, Any]:
    of_type = [photo for photo in photos if photo.label == label]
    table = columns(_against_good(photos, label))
    return {
        "images": len(of_type),
        "called_defective": sum(photo.outcome.is_defective for photo in of_type),
        "called_anomalous": sum(photo.outcome.is_anomalous for photo in of_type),
        "held": _count(of_type, Disposition.HOLD),
        "escapes": sum(photo.is_escape for photo in of_type),
        "classifier_auroc": _auroc(table.is_defective, table.rank),
        "autoencoder_auroc": _auroc(table.is_defective, table.anomaly),
    }


def _against_good(photos: Sequence[JudgedPhoto], label: str) -> list[JudgedPhoto]:
    return [photo for photo in photos if not photo.is_defective or photo.label == label]


def _called(is_defective: Flags, is_called: Flags) -> dict[str, float | None]:
    """F1, recall and false-alarm rate of one model's opinion at its threshold."""
    hits, alarms, defective, good = _counts(is_defective, is_called)
    return {
        "f1": _share(2 * hits, hits + alarms + defective) if defective else None,
        "recall": _share(hits, defective),
        "false_alarm_rate": _share(alarms, good),
    }


def _counts(is_defective: Flags, is_called: Flags) -> tuple[int, int, int, int]:
    """Hits, alarms, defective, good."""
    return (
        int((is_defective & is_called).sum()),
        int((~is_defective & is_called).sum()),
        int(is_defective.sum()),
        int((~is_defective).sum()),
    )


def _intervals(
    table: Columns, drawn: Resamples | None, combined: dict[str, Any]
) -> dict[str, dict[str, Interval | None]]:
    """In the structure of `figures`; drawn is None where a class is missing."""
    defective = int(table.is_defective.sum())
    good = len(table.is_defective) - defective
    return {
        "classifier": {
            "auroc": _auroc_interval(table.is_defective, table.rank, drawn),
            "average_precision": _precision_interval(table.rank, drawn),
            **_called_intervals(table.is_defective, table.called_defective, drawn),
        },
        "autoencoder": {
            "auroc": _auroc_interval(table.is_defective, table.anomaly, drawn),
            "mse_auroc": _auroc_interval(table.is_defective, table.mse, drawn),
            "average_precision": _precision_interval(table.anomaly, drawn),
            **_called_intervals(table.is_defective, table.called_anomalous, drawn),
        },
        "combined": {
            "escape_rate": exact(combined["escapes"], defective),
            "rejection_rate_of_good": exact(combined["rejected_good"], good),
            "review_load_on_good": exact(combined["held_good"], good),
        },
    }


def _of_type_intervals(
    photos: Sequence[JudgedPhoto], label: str, *, seed: int, resamples: int
) -> dict[str, Interval | None]:
    table = columns(_against_good(photos, label))
    is_type = table.is_defective if label != GOOD else ~table.is_defective
    drawn = resample(table.is_defective, seed=seed, resamples=resamples)
    both = drawn if 0 < table.is_defective.sum() < len(table.is_defective) else None
    images = int(is_type.sum())
    escapes = sum(photo.is_escape for photo in photos if photo.label == label)
    return {
        "called_defective_rate": exact(int((is_type & table.called_defective).sum()), images),
        "called_anomalous_rate": exact(int((is_type & table.called_anomalous).sum()), images),
        "escape_rate": None if label == GOOD else exact(escapes, images),
        "classifier_auroc": _auroc_interval(table.is_defective, table.rank, both),
        "autoencoder_auroc": _auroc_interval(table.is_defective, table.anomaly, both),
    }


def _auroc_interval(
    is_defective: Flags, scores: Floats, drawn: Resamples | None
) -> Interval | None:
    if drawn is None:
        return None
    auroc = _auroc(is_defective, scores)
    low, high = exact_auroc(int((~is_defective).sum()), int(is_defective.sum()))
    if auroc == 1:
        return low, high
    if auroc == 0:
        return 1 - high, 1 - low
    return percentile(drawn.auroc(scores))


def _precision_interval(scores: Floats, drawn: Resamples | None) -> Interval | None:
    """None at 1: there the bootstrap has no width and nothing exact is known."""
    if drawn is None or _average_precision(drawn.is_defective, scores) == 1:
        return None
    return percentile(drawn.average_precision(scores))


def _called_intervals(
    is_defective: Flags, is_called: Flags, drawn: Resamples | None
) -> dict[str, Interval | None]:
    hits, alarms, defective, good = _counts(is_defective, is_called)
    recall, false_alarms = exact(hits, defective), exact(alarms, good)
    f1: Interval | None = None
    if drawn is not None and recall and false_alarms:
        if hits == 0 or (hits == defective and alarms == 0):
            # No width: F1 at the worst and at the best of recall and false alarms together.
            ends = zip(recall, reversed(false_alarms), strict=True)
            low, high = (
                2 * r * defective / (r * defective + f * good + defective) for r, f in ends
            )
            f1 = low, high
        else:
            f1 = percentile(drawn.f1(is_called))
    return {"f1": f1, "recall": recall, "false_alarm_rate": false_alarms}


def _curves(table: Columns) -> dict[str, Any]:
    models = {"classifier": table.rank, "autoencoder": table.anomaly}
    return {
        "roc": {name: curves.roc(s, table.is_defective) for name, s in models.items()},
        "precision_recall": {
            name: curves.precision_recall(s, table.is_defective) for name, s in models.items()
        },
        "review": curves.review(table),
    }


def _in_words(found: dict[str, Any]) -> dict[str, str]:
    combined, defective, good = found["combined"], found["defective"], found["good"]
    return {
        "escapes": in_words(
            combined["escapes"], defective, one="escape", many="escapes", of="defective parts"
        ),
        "rejected_good": in_words(
            combined["rejected_good"],
            good,
            one="rejection",
            many="rejections",
            of="good parts",
        ),
        "held_good": in_words(
            combined["held_good"],
            good,
            one="needless review",
            many="needless reviews",
            of="good parts",
        ),
    }


def _notes(found: dict[str, Any], table: Columns | None) -> list[str]:
    if not found["images"]:
        return ["There are no photos to measure on."]
    if table is None:
        missing = "good" if found["defective"] else "defective"
        return [f"No {missing} photo to measure on: figures that need both kinds are left out."]
    return [
        f"The {name} puts every defective photo above every good one. Resampling the same photos "
        "would show no doubt at all: the interval of its AUROC is the exact one of as many "
        "independent pairs, and its average precision has none."
        for name in ("classifier", "autoencoder")
        if found[name]["auroc"] == 1
    ]


def _note_on_parts(photos: Sequence[JudgedPhoto]) -> list[str]:
    known = [photo.part for photo in photos if photo.part is not None]
    parts = len(photos) - len(known) + len(set(known))
    if parts == len(photos):
        return []
    return [
        f"The {len(photos)} photos show {parts} parts: some are nearly the same. Intervals take "
        "each photo for a part of its own, so they are narrower than they ought to be."
    ]


def _auroc(is_defective: Flags, scores: Floats) -> float | None:
    if len(np.unique(is_defective)) < 2:
        return None
    return float(roc_auc_score(is_defective, scores))


def _average_precision(is_defective: Flags, scores: Floats) -> float | None:
    if len(np.unique(is_defective)) < 2:
        return None
    return float(average_precision_score(is_defective, scores))


def _count(photos: Sequence[JudgedPhoto], disposition: Disposition) -> int:
    return sum(photo.outcome.disposition is disposition for photo in photos)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
