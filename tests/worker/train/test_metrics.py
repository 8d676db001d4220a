import json
from dataclasses import replace

import pytest

from shared.manifest import Thresholds
from shared.verdicts import Disposition, Outcome, Scores, Verdict, decide
from worker.train.judged import JudgedPhoto
from worker.train.metrics import measure, out_of_fold


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


def test_every_figure_has_its_interval_at_the_same_place():
    found = measure(PHOTOS)
    for part in ("classifier", "autoencoder"):
        assert found["intervals"][part].keys() == found[part].keys()
        for name, value in found[part].items():
            low, high = found["intervals"][part][name]
            assert low <= value <= high
            assert low < high
    assert found["intervals"]["by_type"].keys() == found["by_type"].keys()
    for name, interval in found["intervals"]["combined"].items():
        assert interval[0] <= found["combined"][name] <= interval[1]
    json.dumps(found, allow_nan=False)


def test_the_same_photos_and_seed_give_the_same_intervals():
    assert measure(PHOTOS, seed=1) == measure(PHOTOS, seed=1)
    assert measure(PHOTOS, seed=1)["intervals"] != measure(PHOTOS, seed=2)["intervals"]


def test_more_photos_make_intervals_narrower():
    def width(found):
        low, high = found["intervals"]["classifier"]["auroc"]
        return high - low

    assert width(measure(PHOTOS * 16)) < width(measure(PHOTOS)) / 2


def test_perfect_figures_are_not_certain():
    perfect = [judged("good", 0.1, 1.0)] * 10 + [judged("chip", 0.9, 9.0)] * 43
    found = measure(perfect)
    assert found["classifier"]["auroc"] == 1
    assert found["intervals"]["classifier"]["auroc"] == pytest.approx((0.025**0.1, 1))
    assert found["intervals"]["classifier"]["average_precision"] is None
    recall, alarms = 0.025 ** (1 / 43), 1 - 0.025 ** (1 / 10)
    assert found["intervals"]["classifier"]["f1"] == pytest.approx(
        (2 * 43 * recall / (43 * recall + 10 * alarms + 43), 1)
    )
    assert found["in_words"]["escapes"].endswith("the true rate may still be up to 6.7 %.")
    assert "average precision has none" in found["notes"][0]


def test_confusion_counts_every_photo_once_for_each_opinion():
    found = measure(PHOTOS)["confusion"]
    assert found["classifier"] == {
        "good": {"called_good": 3, "called_defective": 1},
        "defective": {"called_good": 1, "called_defective": 2},
    }
    assert found["autoencoder"] == {
        "good": {"called_good": 3, "called_anomalous": 1},
        "defective": {"called_good": 2, "called_anomalous": 1},
    }
    assert found["combined"] == {
        "good": {"pass": 2, "hold": 2, "reject": 0},
        "defective": {"pass": 1, "hold": 1, "reject": 1},
    }


def test_with_one_class_what_needs_both_is_none_and_a_note_says_why():
    found = measure([photo for photo in PHOTOS if photo.is_defective])
    assert found["curves"] is None
    assert found["calibration"] is None
    assert found["intervals"]["classifier"]["auroc"] is None
    assert found["intervals"]["classifier"]["recall"] is not None
    assert "No good photo" in found["notes"][0]


def test_photos_of_one_part_are_no_evidence_of_their_own_and_a_note_says_so():
    def note(parts):
        photos = [replace(photo, part=part) for photo, part in zip(PHOTOS, parts, strict=True)]
        return [note for note in measure(photos)["notes"] if "parts" in note]

    assert note(range(7)) == []
    assert note([None] * 7) == []
    assert note([0, 0, 2, 3, 4, 4, None])[0].startswith("The 7 photos show 5 parts")


def test_figures_of_a_cross_validation_say_so():
    assert measure(PHOTOS, measured_on=out_of_fold(5))["measured_on"] == "out of fold, 5 folds"
