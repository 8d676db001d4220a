import pytest

from shared.manifest import Thresholds
from shared.verdicts import QualityReason, Scores, decide

THRESHOLDS = Thresholds(
    defect_probability=0.336,
    near_threshold_low=0.30,
    near_threshold_high=0.40,
    anomaly_score=4.0,
    domain_distance=50.0,
)

# (P(defect), anomaly score, distance, quality) -> (verdict, disposition, reasons)
TRUTH = [
    # Both models agree.
    ((0.10, 1.0, 20.0, ()), ("good", "pass", [])),
    ((0.90, 9.0, 20.0, ()), ("defective", "reject", [])),
    # One of them objects.
    ((0.90, 1.0, 20.0, ()), ("defective", "hold", ["model_disagreement"])),
    ((0.10, 9.0, 20.0, ()), ("good", "hold", ["model_disagreement"])),
    # Near the threshold, on either side of it.
    ((0.32, 1.0, 20.0, ()), ("good", "hold", ["near_threshold"])),
    ((0.35, 9.0, 20.0, ()), ("defective", "hold", ["near_threshold"])),
    ((0.35, 1.0, 20.0, ()), ("defective", "hold", ["model_disagreement", "near_threshold"])),
    # Each threshold belongs to the side that its name says.
    ((0.336, 4.0, 50.0, ()), ("defective", "hold", ["near_threshold"])),
    ((0.30, 1.0, 20.0, ()), ("good", "hold", ["near_threshold"])),
    ((0.40, 4.0, 20.0, ()), ("defective", "reject", [])),
    ((0.2999, 3.999, 50.0, ()), ("good", "pass", [])),
    # Not the product, or too poor a photo: the other numbers mean nothing.
    ((0.90, 9.0, 50.1, ()), ("undecidable", "hold", ["out_of_domain"])),
    ((0.35, 1.0, 50.1, ()), ("undecidable", "hold", ["out_of_domain"])),
    ((0.10, 9.0, 20.0, (QualityReason.DARK,)), ("undecidable", "hold", ["low_quality"])),
    (
        (0.10, 9.0, 99.0, (QualityReason.BLURRED,)),
        ("undecidable", "hold", ["out_of_domain", "low_quality"]),
    ),
]


@pytest.mark.parametrize(("scores", "expected"), TRUTH)
def test_scores_become_verdict_disposition_and_reasons(scores, expected):
    probability, anomaly, distance, quality = scores

    outcome = decide(Scores(probability, 0.002, anomaly, distance, quality), THRESHOLDS)

    assert (outcome.verdict, outcome.disposition, list(outcome.review_reasons)) == expected


@pytest.mark.parametrize(("scores", "_"), TRUTH)
def test_a_part_passes_only_when_nothing_speaks_against_it(scores, _):
    probability, anomaly, distance, quality = scores

    outcome = decide(Scores(probability, 0.002, anomaly, distance, quality), THRESHOLDS)

    is_clean = probability < 0.30 and anomaly < 4.0 and distance <= 50.0 and not quality
    assert (outcome.disposition == "pass") is is_clean
    assert (outcome.disposition == "hold") is bool(outcome.review_reasons)
