import hashlib
import json

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from shared.verdicts import Disposition, Outcome, Scores, Verdict, decide
from worker.inspect.bundle import load_bundle
from worker.train.evaluation import JudgedPhoto, evaluate, measure


def judged(label, probability, anomaly, *, near=(0.4, 0.4)):
    """A photo that the verdict function has decided on, thresholds 0.4 and 3.0."""
    from shared.manifest import Thresholds

    scores = Scores(probability, anomaly / 1000, anomaly, 10.0, ())
    thresholds = Thresholds(
        defect_probability=0.4,
        near_threshold_low=near[0],
        near_threshold_high=near[1],
        anomaly_score=3.0,
        domain_distance=50.0,
    )
    return JudgedPhoto(f"test/{label}/x.png", label, False, scores, decide(scores, thresholds))


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
    photo = JudgedPhoto("x", "chip", False, PHOTOS[0].scores, outcome)
    combined = measure([photo])["combined"]
    assert combined["undecidable"] == 1
    assert combined["escapes"] == 0


@pytest.fixture
def folder(tmp_path, photos):
    """Four good and four scratched photos as files."""
    for number, photo in enumerate(photos[:8]):
        path = tmp_path / "data" / "test" / ("good", "scratched")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), photo.pixels[..., ::-1])
    return tmp_path / "data"


def mark_as_trained_on(bundle, paths):
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["data"]["trained_on"] = [
        "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    ]
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_photos_that_the_bundle_was_trained_on_count_only_under_the_whole_folder(
    tmp_path, folder, write_test_bundle
):
    bundle = tmp_path / "bundle"
    write_test_bundle(bundle)
    mark_as_trained_on(bundle, [folder / "test" / "good" / "0.png"])

    document = evaluate(bundle, folder)

    assert document["images"] == 7
    assert document["seen_in_training"] == 1
    assert document["whole_folder"]["images"] == 8
    assert {row["path"] for row in document["photos"] if row["seen_in_training"]} == {
        "test/good/0.png"
    }
    assert document["bundle"] == load_bundle(bundle).digest
    json.dumps(document, allow_nan=False)


def test_a_bundle_that_has_seen_everything_gets_no_figures_but_a_note(
    tmp_path, folder, write_test_bundle
):
    bundle = tmp_path / "bundle"
    write_test_bundle(bundle)
    mark_as_trained_on(bundle, sorted(folder.rglob("*.png")))

    document = evaluate(bundle, folder)

    assert document["images"] == 0
    assert document["classifier"]["auroc"] is None
    assert document["whole_folder"]["classifier"]["auroc"] is not None
    assert "trained on every photo" in document["notes"][0]


def test_files_that_cannot_be_judged_are_named(tmp_path, folder, write_test_bundle):
    write_test_bundle(tmp_path / "bundle")
    (folder / "test" / "good" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UnusableData, match=r"good/broken\.png"):
        evaluate(tmp_path / "bundle", folder)


def test_the_scores_are_those_of_the_serving_pipeline(tmp_path, folder, write_test_bundle):
    from worker.inspect.files import open_bundle
    from worker.inspect.preprocess import prepare

    write_test_bundle(tmp_path / "bundle")
    rows = {row["path"]: row for row in evaluate(tmp_path / "bundle", folder)["photos"]}
    inspector, model = open_bundle(tmp_path / "bundle")
    path = folder / "test" / "scratched" / "3.png"
    (judgement,) = inspector.judge([prepare(path.read_bytes())], [model])
    row = rows["test/scratched/3.png"]
    np.testing.assert_allclose(
        [row["defect_probability"], row["mse"], row["anomaly_score"], row["domain_distance"]],
        [
            judgement.scores.defect_probability,
            judgement.scores.mse,
            judgement.scores.anomaly_score,
            judgement.scores.domain_distance,
        ],
        rtol=1e-5,
        atol=1e-5,
    )
