"""A photo of known label that a model has judged: what every figure is made from.

Nothing here loads a bundle, so photos judged out of fold count in the same way
as those that a bundle judges.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shared.manifest import Limits, Thresholds
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict
from worker.train.dataset import GOOD

Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]

_PROBABILITY_EDGE = 1e-6


@dataclass(frozen=True)
class Maps:
    """Where the two models looked, as raw values; some 200 kB a photo."""

    attention: NDArray[np.float32]
    """Grad-CAM beyond that of good parts (8, 8)."""
    strangeness: NDArray[np.float16]
    """Raw anomaly map (256, 256). As float16 it has 65,536 values at most: its pixels can
    be counted instead of sorted."""
    limits: Limits
    """The scales that the maps are drawn in."""
    mask: Flags | None
    """(256, 256): where the defect is, as people drew it. None: nobody has, or it is good."""

    @classmethod
    def of(
        cls,
        attention: NDArray[np.float32],
        strangeness: NDArray[np.float32],
        limits: Limits,
        mask: Flags | None,
    ) -> Self:
        """Raw maps as a model gives them, (8, 8) and (256, 256)."""
        largest = np.finfo(np.float16).max
        stored = np.clip(strangeness, -largest, largest).astype(np.float16)
        return cls(attention, stored, limits, mask)


@dataclass(frozen=True)
class JudgedPhoto:
    path: str
    """Relative to the evaluated folder."""
    label: str
    is_seen: bool
    """The model was trained or calibrated on it."""
    scores: Scores
    outcome: Outcome
    thresholds: Thresholds
    """Those that the outcome was decided by: each fold has its own."""
    maps: Maps | None = field(default=None, repr=False)
    margin: float | None = None
    """Out of fold: logit of defective minus that of good. None: a bundle judged it."""
    part: int | None = None
    """The same for all photos of one part. None: not known, taken for a part of its own."""

    @property
    def is_defective(self) -> bool:
        return self.label != GOOD

    @property
    def rank(self) -> float:
        """What the classifier puts photos in order by, the higher the more defective.

        A bundle has one temperature, and its probabilities keep the order of the margins; each
        fold has its own, and probabilities would shuffle photos of different folds.
        """
        return self.scores.defect_probability if self.margin is None else self.margin

    @property
    def is_escape(self) -> bool:
        """A defective part that passes with nobody looking."""
        return self.is_defective and self.outcome.disposition is Disposition.PASS

    @property
    def log_odds_above(self) -> float:
        """How far the probability lies above its threshold, in log-odds; below is negative."""
        return log_odds(self.scores.defect_probability) - log_odds(
            self.thresholds.defect_probability
        )


def log_odds(probability: float) -> float:
    """Log-odds; 0 and 1 are taken for one in a million off."""
    clipped = min(max(probability, _PROBABILITY_EDGE), 1 - _PROBABILITY_EDGE)
    return float(np.log(clipped / (1 - clipped)))


@dataclass(frozen=True)
class Columns:
    """The same photos as arrays (N,), in their order."""

    is_defective: Flags
    probability: Floats
    rank: Floats
    anomaly: Floats
    mse: Floats
    called_defective: Flags
    called_anomalous: Flags
    is_decidable: Flags
    is_near: Flags
    """Held because the probability lies near its threshold."""
    log_odds_above: Floats
    anomaly_above: Floats
    """Standard deviations by which the anomaly score lies above its threshold."""


def columns(photos: Sequence[JudgedPhoto]) -> Columns:
    """The photos as arrays, so that thousands of resamples are a matter of matrices."""

    def flags(values: list[bool]) -> Flags:
        return np.array(values, bool)

    def floats(values: list[float]) -> Floats:
        return np.array(values, np.float64)

    return Columns(
        is_defective=flags([p.is_defective for p in photos]),
        probability=floats([p.scores.defect_probability for p in photos]),
        rank=floats([p.rank for p in photos]),
        anomaly=floats([p.scores.anomaly_score for p in photos]),
        mse=floats([p.scores.mse for p in photos]),
        called_defective=flags([p.outcome.is_defective for p in photos]),
        called_anomalous=flags([p.outcome.is_anomalous for p in photos]),
        is_decidable=flags([p.outcome.verdict is not Verdict.UNDECIDABLE for p in photos]),
        is_near=flags([ReviewReason.NEAR_THRESHOLD in p.outcome.review_reasons for p in photos]),
        log_odds_above=floats([p.log_odds_above for p in photos]),
        anomaly_above=floats([p.scores.anomaly_score - p.thresholds.anomaly_score for p in photos]),
    )


def row(photo: JudgedPhoto) -> dict[str, Any]:
    """One photo as it stands in the document: scores, what was decided, by which thresholds."""
    return {
        "path": photo.path,
        "label": photo.label,
        "seen_in_training": photo.is_seen,
        **asdict(photo.scores),
        "rank": photo.rank,
        "called_defective": photo.outcome.is_defective,
        "called_anomalous": photo.outcome.is_anomalous,
        "verdict": photo.outcome.verdict,
        "disposition": photo.outcome.disposition,
        "review_reasons": photo.outcome.review_reasons,
        "thresholds": photo.thresholds.model_dump(),
    }
