import json

import pytest

from shared.manifest import Thresholds
from shared.verdicts import Disposition, Outcome, Scores, Verdict, decide
from worker.train.judged import JudgedPhoto
from worker.train.metrics import measure


def judged(label, probability, anomaly, *, near=(0.4, 0.4)):
    """A photo that the verdict function has decided on, thresholds 0.4 and 3.0."""
    scores = Scores(probability, anomaly / 1000, anomaly, 10.0, ())
    thresholds = Thresholds(
        defect_probability=0.4,
        near_threshold_low=near[0],
        near_threshold_high=near[1],
        anomaly_score=3.0,
        domain_distance=50.0,
    )
    outcome = decide(scores, thresholds)
    return JudgedPhoto(f"test/{label}/x.png", label, False, scores, outcome, thresholds)


PHOTOS = [
    judged("good", 0.1, 1.0),
    judged("good", 0.2, 2.0),
    judged("good", 0.5, 1.5),  # false alarm of the classifier, held
    judged("good", 0.3, 4.0),  # false alarm of the autoencoder, held
    judged("chip", 0.9, 9.0),
    judged("chip", 0.6, 2.5),  # the autoencoder misses it, held
    judged("crack", 0.35, 1.2),  # an escape
]


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    figures = measure(PHOTOS)
    # Defects 0.9, 0.6, 0.35 against good 0.1, 0.2, 0.5, 0.3: 4 + 4 + 3 of 12 pairs.
    assert figures["classifier"]["auroc"] == pytest.approx(11 / 12)
    # 9, 2.5, 1.2 against 1, 2, 1.5, 4: 4 + 3 + 1 of 12 pairs.
    assert figures["autoencoder"]["auroc"] == pytest.approx(8 / 12)
    assert figures["autoencoder"]["mse_auroc"] == pytest.approx(8 / 12)


def test_average_precision_is_the_mean_precision_at_each_defect():
    # Ranked: 0.9 x, 0.6 x, 0.5 good, 0.35 x: precisions 1, 1 and 3/4.
    assert measure(PHOTOS)["classifier"]["average_precision"] == pytest.approx((1 + 1 + 0.75) / 3)


def test_rates_are_those_at_the_bundles_thresholds():
    figures = measure(PHOTOS)
    # 2 of 3 defects found, 1 of 4 good called defective: F1 = 2 * 2 / (3 + 3).
    assert figures["classifier"]["recall"] == pytest.approx(2 / 3)
    assert figures["classifier"]["false_alarm_rate"] == pytest.approx(1 / 4)
    assert figures["classifier"]["f1"] == pytest.approx(2 / 3)
    assert figures["autoencoder"]["recall"] == pytest.approx(1 / 3)
    assert figures["autoencoder"]["false_alarm_rate"] == pytest.approx(1 / 4)


def test_an_escape_is_a_defect_that_passes_with_nobody_looking():
    combined = measure(PHOTOS)["combined"]
    assert combined["escapes"] == 1
    assert combined["rejected_defects"] == 1
    assert combined["held_defects"] == 1
    assert combined["passed_good"] == 2
    assert combined["held_good"] == 2
    assert combined["rejected_good"] == 0
    assert combined["review_load_on_good"] == pytest.approx(0.5)


def test_each_defect_type_is_measured_against_all_good_photos():
    by_type = measure(PHOTOS)["by_type"]
    assert by_type["chip"]["images"] == 2
    assert by_type["chip"]["classifier_auroc"] == pytest.approx(1.0)
    assert by_type["crack"]["classifier_auroc"] == pytest.approx(3 / 4)
    assert by_type["crack"]["escapes"] == 1
    assert by_type["good"]["classifier_auroc"] is None


def test_with_one_class_the_figures_that_need_both_are_none_never_nan():
    figures = measure([photo for photo in PHOTOS if not photo.is_defective])
    assert figures["classifier"]["auroc"] is None
    assert figures["classifier"]["f1"] is None
    assert figures["classifier"]["recall"] is None
    assert figures["classifier"]["false_alarm_rate"] == pytest.approx(1 / 4)
    assert "NaN" not in json.dumps(figures)


def test_of_no_photos_nothing_is_said():
    figures = measure([])
    assert figures["images"] == 0
    assert figures["classifier"]["auroc"] is None
    assert figures["combined"]["review_load_on_good"] is None


def test_an_undecidable_defect_is_held_and_no_escape():
    outcome = Outcome(Verdict.UNDECIDABLE, Disposition.HOLD, (), False, False, False)
    photo = JudgedPhoto("x", "chip", False, PHOTOS[0].scores, outcome, PHOTOS[0].thresholds)
    combined = measure([photo])["combined"]
    assert combined["undecidable"] == 1
    assert combined["escapes"] == 0
