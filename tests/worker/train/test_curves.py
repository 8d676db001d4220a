from dataclasses import replace

import numpy as np
import pytest

from shared.manifest import Thresholds
from shared.verdicts import Scores, decide
from worker.train.curves import precision_recall, reliability, review, roc
from worker.train.intervals import resample
from worker.train.judged import JudgedPhoto, columns, log_odds

THRESHOLDS = Thresholds(
    defect_probability=0.5,
    near_threshold_low=0.45,
    near_threshold_high=0.55,
    anomaly_score=5.0,
    domain_distance=50.0,
)


def judged(label, probability, anomaly, *, distance=10.0):
    scores = Scores(probability, 0.01, anomaly, distance, ())
    outcome = decide(scores, THRESHOLDS)
    return JudgedPhoto("x.png", label, False, scores, outcome, THRESHOLDS)


def reliability_of(photos, *, seed=0):
    table = columns(photos)
    return reliability(table, resample(table.is_defective, seed=seed), seed=seed)


def test_roc_goes_from_nothing_called_to_everything_called():
    curve = roc(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
    points = list(zip(curve["false_alarm_rate"], curve["recall"], strict=True))
    assert points == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


def test_precision_falls_with_each_good_photo_that_is_called():
    curve = precision_recall(np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False]))
    points = set(zip(curve["recall"], curve["precision"], strict=True))
    assert {(0.5, 1), (0.5, 0.5), (1, 0.666667), (1, 0.5)} <= points


def test_ece_is_the_mean_gap_between_stated_and_found():
    # Two bins of equal weight: stated 0.2, found 0.25; stated 0.9, found 0.75.
    low = [judged("good", 0.2, 1.0)] * 3 + [judged("chip", 0.2, 1.0)]
    high = [judged("good", 0.9, 1.0)] + [judged("chip", 0.9, 9.0)] * 3
    found = reliability_of(low + high)
    assert found["ece"] == pytest.approx((0.05 + 0.15) / 2)
    assert [b["photos"] for b in found["bins"]] == [4, 4]
    assert [b["mean_probability"] for b in found["bins"]] == pytest.approx([0.2, 0.9])
    assert [b["defective_share"] for b in found["bins"]] == pytest.approx([0.25, 0.75])
    low_end, high_end = found["interval"]
    assert low_end < found["ece"] < high_end


def test_a_folder_full_of_defects_does_not_make_the_probability_wrong():
    once = [judged("good", 0.2, 1.0)] * 3 + [judged("chip", 0.2, 1.0)]
    once += [judged("good", 0.9, 1.0)] + [judged("chip", 0.9, 9.0)] * 3
    more = once + [photo for photo in once if photo.is_defective] * 9
    assert reliability_of(more)["ece"] == pytest.approx(reliability_of(once)["ece"])


def test_photos_of_equal_probability_are_never_torn_into_two_bins():
    # Sorted by label these would look like a bin of good and a bin of defective photos.
    photos = [judged("good", 0.5, 1.0)] * 20 + [judged("chip", 0.5, 9.0)] * 20
    found = reliability_of(photos)
    assert len(found["bins"]) == 1
    assert found["ece"] == pytest.approx(0)


def test_calibrated_probabilities_show_the_error_that_was_predicted_for_them():
    rng = np.random.default_rng(1)
    shown, predicted = [], []
    for _ in range(20):
        stated = rng.uniform(0, 1, 60)
        is_defective = rng.random(60) < stated
        photos = [
            judged("chip" if wrong else "good", float(p), 1.0)
            for p, wrong in zip(stated, is_defective, strict=True)
        ]
        found = reliability_of(photos)
        shown.append(found["ece"])
        predicted.append(found["if_calibrated"])
    mean, most = np.mean(predicted, axis=0)
    assert np.mean(shown) == pytest.approx(mean, rel=0.2)
    assert np.mean(np.array(shown) > most) <= 0.2


PHOTOS = [
    judged("good", 0.1, 1.0),
    judged("good", 0.4, 2.0),
    judged("good", 0.2, 6.0),  # contested
    judged("good", 0.52, 7.0),  # both call it, but near the threshold
    judged("chip", 0.85, 9.0),
    judged("chip", 0.3, 3.0),  # an escape
    judged("chip", 0.05, 4.0),  # an escape
    judged("chip", 0.01, 1.0, distance=99.0),  # undecidable
]


def test_the_operating_point_is_what_was_decided():
    assert review(columns(PHOTOS))["operating_point"] == {"good_held": 0.5, "escapes": 2}


def test_a_wider_band_holds_more_good_parts_and_lets_fewer_defects_pass():
    band = review(columns(PHOTOS))["band"]
    # Held without any band: the contested good part. Then, by distance from even odds,
    # 0.52 good, 0.4 good, 0.3 chip, 0.85 chip, 0.1 good, 0.05 chip.
    assert band["good_held"] == [0.25, 0.5, 0.75, 0.75, 0.75, 1, 1]
    assert band["escapes"] == [2, 2, 2, 1, 1, 1, 0]
    assert band["log_odds"][0] == 0
    assert band["log_odds"][-1] == pytest.approx(-log_odds(0.05), abs=1e-5)


def test_a_lower_threshold_of_the_autoencoder_stops_escapes_too():
    anomaly = review(columns(PHOTOS))["anomaly"]
    by_move = dict(
        zip(
            anomaly["deviations"],
            zip(anomaly["good_held"], anomaly["escapes"], strict=True),
            strict=True,
        )
    )
    assert by_move[-4.0] == (1, 0)  # everything is anomalous
    assert by_move[-2.0] == (0.5, 0)  # 3.0 is anomalous, 2.0 is not
    assert by_move[-1.0] == (0.5, 1)
    assert by_move[5.0] == (0.25, 2)  # nothing is: the contested good part passes


def test_the_least_review_without_an_escape_is_named():
    assert review(columns(PHOTOS))["least_held_without_escapes"] == 0.5


def test_each_fold_is_held_against_its_own_thresholds():
    stricter = THRESHOLDS.model_copy(update={"defect_probability": 0.29, "anomaly_score": 2.5})
    escape = PHOTOS[5]
    caught = replace(escape, thresholds=stricter, outcome=decide(escape.scores, stricter))
    found = review(columns([*PHOTOS[:5], caught]))
    assert found["operating_point"]["escapes"] == 0
    assert max(found["band"]["escapes"]) == 0
