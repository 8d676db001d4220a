"""From out-of-fold readings to the numbers that decide, and to figures that are fair to them.

The bundle gets thresholds from all readings. Its figures may not: a threshold chosen on a photo
flatters what is then measured on that photo. So for the figures, each fold is decided by the
thresholds of the other folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from shared.manifest import Limits, QualityLimits, Thresholds
from shared.verdicts import Scores, decide
from worker.inspect.gradcam import GoodEvidence, gradcam
from worker.inspect.preprocess import quality_reasons
from worker.train import calibration
from worker.train.calibration import Policy
from worker.train.crossvalidation import AutoencoderReadings, ClassifierReadings
from worker.train.dataset import LabelledPhoto
from worker.train.head import ENOUGH_DEFECTS
from worker.train.judged import Flags, JudgedPhoto, Maps

ANOMALY_DEVIATIONS = 1.645
"""Some 5 % of good parts lie above: each is a disagreement that a person looks at. Only 2 % lie
near the classifier's threshold: what one model overlooks, the other one sees sooner."""


@dataclass(frozen=True)
class Decider:
    """All numbers that turn the readings of a photo into an outcome."""

    temperature: float
    thresholds: Thresholds
    quality: QualityLimits


@dataclass(frozen=True)
class Readings:
    """Everything read of the training photos out of fold, row by row."""

    photos: Sequence[LabelledPhoto]
    fold_of: NDArray[np.int64]  # (N,)
    classifier: ClassifierReadings
    autoencoder: AutoencoderReadings

    @property
    def is_defective(self) -> NDArray[np.bool_]:
        return np.array([photo.is_defective for photo in self.photos])


def fit_decider(readings: Readings, rows: NDArray[np.bool_], policy: Policy) -> Decider:
    """Thresholds and limits from the readings of some photos: rows (N,)."""
    is_defective, is_good = readings.is_defective[rows], rows & ~readings.is_defective
    classifier = readings.classifier
    margins, distances = classifier.margins[rows], classifier.domain_distances[rows]
    worth = np.ones(len(margins))
    missing = ENOUGH_DEFECTS - int(is_defective.sum())
    if missing > 0:
        margins = np.concatenate([margins, classifier.synthetic_margins[is_good]])
        distances = np.concatenate([distances, classifier.synthetic_distances[is_good]])
        count = int(is_good.sum())
        is_defective = np.concatenate([is_defective, np.ones(count, np.bool_)])
        # All together count as much as the real ones that are missing.
        worth = np.concatenate([worth, np.full(count, missing / count)])
    temperature = calibration.fit_temperature(margins, is_defective, worth)
    scores = calibration.probabilities(margins, temperature)
    threshold = policy.threshold(scores, is_defective, worth)
    low, high = calibration.near_band(scores, is_defective, threshold)
    return Decider(
        temperature,
        Thresholds(
            defect_probability=threshold,
            near_threshold_low=low,
            near_threshold_high=high,
            anomaly_score=calibration.upper_limit(
                readings.autoencoder.scores[is_good],
                deviations=ANOMALY_DEVIATIONS,
                parts=len(
                    {
                        photo.group
                        for photo, chosen in zip(readings.photos, is_good, strict=True)
                        if chosen
                    }
                ),
            ),
            domain_distance=calibration.domain_limit(distances, worth),
        ),
        calibration.quality_limits(
            [
                photo.photo.quality
                for photo, chosen in zip(readings.photos, rows, strict=True)
                if chosen
            ]
        ),
    )


def fit_evidence(readings: Readings, rows: NDArray[np.bool_]) -> GoodEvidence:
    """What the classifier has at each cell of good parts, from those among rows (N,)."""
    is_good = torch.from_numpy(rows & ~readings.is_defective)
    return GoodEvidence(readings.classifier.evidence[is_good].mean(dim=0))


def fit_limits(readings: Readings, rows: NDArray[np.bool_], decider: Decider) -> Limits:
    """The scales that maps are drawn in, from the readings of some photos: rows (N,)."""
    attention = gradcam(readings.classifier.evidence, fit_evidence(readings, rows))
    peaks = attention.amax(dim=(1, 2)).double().numpy()
    return Limits.of(
        decider.thresholds.anomaly_score,
        gradcam_high=calibration.attention_limit(peaks[rows], readings.is_defective[rows]),
    )


def judge_out_of_fold(
    readings_for: Sequence[Readings],
    *,
    policy: Policy,
    data: Path,
    masks: Mapping[Path, Flags],
) -> list[JudgedPhoto]:
    """What each photo would have got, by models and thresholds that have not seen it.

    `readings_for`: for each fold those of the models that were chosen without it. `data`: the
    folder that paths are relative to, if they lie in it; `masks`: where defects are, as far as
    people have drawn it. The other folds' models had this fold among their photos when they made
    the readings that its thresholds come from: the usual cross-fitting, one step short of nesting.
    """
    judged: dict[int, JudgedPhoto] = {}
    anomaly_scores = readings_for[0].autoencoder.scores
    for fold, readings in enumerate(readings_for):
        is_read = readings.fold_of == fold
        decider = fit_decider(readings, ~is_read, policy)
        limits = fit_limits(readings, ~is_read, decider)
        attention = gradcam(readings.classifier.evidence, fit_evidence(readings, ~is_read))
        probabilities = calibration.probabilities(readings.classifier.margins, decider.temperature)
        for row in np.nonzero(is_read)[0].tolist():
            photo = readings.photos[row]
            scores = Scores(
                defect_probability=float(probabilities[row]),
                mse=float(readings.autoencoder.mses[row]),
                anomaly_score=float(anomaly_scores[row]),
                domain_distance=float(readings.classifier.domain_distances[row]),
                quality_reasons=quality_reasons(photo.photo.quality, decider.quality),
            )
            judged[row] = JudgedPhoto(
                path=(
                    photo.path.relative_to(data) if photo.path.is_relative_to(data) else photo.path
                ).as_posix(),
                label=photo.label,
                is_seen=False,
                scores=scores,
                outcome=decide(scores, decider.thresholds),
                thresholds=decider.thresholds,
                margin=float(readings.classifier.margins[row]),
                part=photo.group,
                maps=Maps.of(
                    attention[row].numpy(),
                    readings.autoencoder.strangeness[row].numpy(),
                    limits,
                    masks.get(photo.path),
                ),
            )
    return [judged[row] for row in range(len(judged))]
