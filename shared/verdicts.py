"""Scores and thresholds in, verdict and review reasons out: pure functions.

The one place where numbers turn into good, defective or undecidable. Nothing
passes silently: any reason to doubt holds the part for a person.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from shared.manifest import Thresholds


class Verdict(StrEnum):
    GOOD = "good"
    DEFECTIVE = "defective"
    UNDECIDABLE = "undecidable"
    """The numbers mean nothing: not a photo of the product, or too poor a one."""


class Disposition(StrEnum):
    PASS = "pass"  # noqa: S105 - what happens to the part, no secret
    REJECT = "reject"
    HOLD = "hold"


class ReviewReason(StrEnum):
    MODEL_DISAGREEMENT = "model_disagreement"
    NEAR_THRESHOLD = "near_threshold"
    OUT_OF_DOMAIN = "out_of_domain"
    LOW_QUALITY = "low_quality"
    INSPECTION_FAILED = "inspection_failed"
    RANDOM_AUDIT = "random_audit"
    """Nothing is wrong: passed parts are looked at now and then, to learn how many escape."""


class QualityReason(StrEnum):
    BLURRED = "blurred"
    DARK = "dark"
    OVEREXPOSED = "overexposed"
    TOO_SMALL = "too_small"


@dataclass(frozen=True)
class Scores:
    """What the models say of one photo, before any threshold."""

    defect_probability: float
    """Calibrated softmax of the defect class, in [0, 1]."""
    mse: float
    """Mean squared error of the autoencoder, images in [0, 1]: reported, not decided on."""
    anomaly_score: float
    """Largest standardised, smoothed residual: standard deviations."""
    domain_distance: float
    """Mahalanobis distance of the features to the training features."""
    quality_reasons: tuple[QualityReason, ...]

    @property
    def are_finite(self) -> bool:
        """Whether they can be held against thresholds at all."""
        return all(
            map(
                math.isfinite,
                (self.defect_probability, self.mse, self.anomaly_score, self.domain_distance),
            )
        )


@dataclass(frozen=True)
class Outcome:
    verdict: Verdict
    disposition: Disposition
    review_reasons: tuple[ReviewReason, ...]
    is_defective: bool
    """The classifier's opinion alone."""
    is_anomalous: bool
    """The autoencoder's opinion alone."""
    is_in_domain: bool


FAILED = (Disposition.HOLD, (ReviewReason.INSPECTION_FAILED,))
"""What becomes of a part whose inspection failed."""


def decide(scores: Scores, thresholds: Thresholds) -> Outcome:
    """Verdict, disposition and review reasons of one photo.

    Out of domain or too poor a photo is undecidable whatever the classifier
    says, and then disagreement and nearness mean nothing and are not reported.
    """
    is_defective = scores.defect_probability >= thresholds.defect_probability
    is_anomalous = scores.anomaly_score >= thresholds.anomaly_score
    is_in_domain = scores.domain_distance <= thresholds.domain_distance
    is_near = (
        thresholds.near_threshold_low <= scores.defect_probability < thresholds.near_threshold_high
    )

    reasons: list[ReviewReason] = []
    if not is_in_domain:
        reasons.append(ReviewReason.OUT_OF_DOMAIN)
    if scores.quality_reasons:
        reasons.append(ReviewReason.LOW_QUALITY)
    is_decidable = not reasons
    if is_decidable and is_defective != is_anomalous:
        reasons.append(ReviewReason.MODEL_DISAGREEMENT)
    if is_decidable and is_near:
        reasons.append(ReviewReason.NEAR_THRESHOLD)

    if not is_decidable:
        verdict = Verdict.UNDECIDABLE
    else:
        verdict = Verdict.DEFECTIVE if is_defective else Verdict.GOOD
    if reasons:
        disposition = Disposition.HOLD
    else:
        disposition = Disposition.REJECT if is_defective else Disposition.PASS
    return Outcome(verdict, disposition, tuple(reasons), is_defective, is_anomalous, is_in_domain)


def audited(outcome: Outcome, *, share: float, drawn: float) -> Outcome:
    """The outcome, held for a person where it passes and `drawn` falls below `share`.

    Both in [0, 1]; drawn is random. Only parts that would pass are drawn, each with the same
    chance, so what people find among them holds for all that pass.
    """
    if outcome.disposition is not Disposition.PASS or drawn >= share:
        return outcome
    return replace(
        outcome, disposition=Disposition.HOLD, review_reasons=(ReviewReason.RANDOM_AUDIT,)
    )


DISPOSITION_OF = {
    Verdict.GOOD: Disposition.PASS,
    Verdict.DEFECTIVE: Disposition.REJECT,
    Verdict.UNDECIDABLE: Disposition.HOLD,
}
"""What happens to a part once a person has decided."""
