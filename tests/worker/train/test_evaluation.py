import hashlib
import json

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from shared.manifest import BY_GOOD_PARTS, SET_BY_A_PERSON
from worker.inspect.bundle import load_bundle
from worker.train.evaluation import evaluate, picture_source


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


def test_photos_that_lie_in_no_labels_folder_are_named_instead_of_left_out(
    tmp_path, folder, write_test_bundle
):
    write_test_bundle(tmp_path / "bundle")
    (folder / "train").mkdir()
    for place in ("test/9.png", "train/is-not-looked-at.png"):
        (folder / place).write_bytes((folder / "test" / "good" / "0.png").read_bytes())
    with pytest.raises(UnusableData, match=r"no label's folder: \S+/test/9\.png\. Move"):
        evaluate(tmp_path / "bundle", folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Chosen in training from predictions out of fold, the classifier's for best-f1, "),
        (
            {"recalibrated_from": "sha256:" + "1" * 64, "policy": BY_GOOD_PARTS},
            "Moved to where 0 photos of good parts from another camera put them; none",
        ),
        ({"recalibrated_from": "sha256:" + "1" * 64, "policy": SET_BY_A_PERSON}, "Set by a person"),
    ],
)
def test_it_says_where_the_thresholds_come_from(tmp_path, folder, write_test_bundle, changed, said):
    bundle = tmp_path / "bundle"
    write_test_bundle(bundle)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    (bundle / "manifest.json").write_text(json.dumps(manifest | changed))
    assert evaluate(bundle, folder)["thresholds_from"].startswith(said)


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


def test_frames_of_one_part_are_noted(tmp_path, folder, write_test_bundle):
    write_test_bundle(tmp_path / "bundle")
    good = folder / "test" / "good"
    frame = cv2.imread(str(good / "0.png"))
    cv2.imwrite(str(good / "0-again.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
    notes = evaluate(tmp_path / "bundle", folder)["notes"]
    assert any("The 9 photos show 8 parts" in note for note in notes)


def add_mask(folder, stem, mask):
    file = folder / "ground_truth" / "scratched" / f"{stem}_mask.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), mask)


def test_masks_beside_the_photos_are_held_against_the_maps(tmp_path, folder, write_test_bundle):
    from worker.inspect.files import open_bundle
    from worker.inspect.preprocess import prepare

    write_test_bundle(tmp_path / "bundle")
    assert evaluate(tmp_path / "bundle", folder)["localisation"]["defects_with_mask"] == 0
    inspector, model = open_bundle(tmp_path / "bundle")
    data = (folder / "test" / "scratched" / "3.png").read_bytes()
    (judgement,) = inspector.judge([prepare(data)], [model])
    # Marked are exactly the strangest pixels: the map finds them all before any other.
    strangest = judgement.strangeness >= np.quantile(judgement.strangeness, 0.95)
    add_mask(folder, "3", strangest.astype(np.uint8) * 255)
    for path in (folder / "test").glob("good/*"):
        path.unlink()

    found = evaluate(tmp_path / "bundle", folder)["localisation"]

    assert (found["defects_with_mask"], found["defects_without_mask"]) == (1, 3)
    # The random model's map goes far beyond what would be drawn red: clipped, it would rank worse.
    assert found["anomaly_map"]["pixel_auroc"] == pytest.approx(1, abs=2e-3)
    assert found["anomaly_map"]["inside"] == 1


def test_a_mask_that_marks_nothing_is_named(tmp_path, folder, write_test_bundle):
    write_test_bundle(tmp_path / "bundle")
    add_mask(folder, "3", np.zeros((200, 200), np.uint8))
    with pytest.raises(UnusableData, match=r"3_mask\.png marks no defect"):
        evaluate(tmp_path / "bundle", folder)


def pixels_of(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def test_pictures_of_a_photo_are_those_of_the_serving_pipeline(tmp_path, folder, write_test_bundle):
    from worker.inspect.files import open_bundle
    from worker.inspect.preprocess import prepare

    write_test_bundle(tmp_path / "bundle")
    inspector, model = open_bundle(tmp_path / "bundle")
    photo = prepare((folder / "test" / "scratched" / "3.png").read_bytes())
    (judgement,) = inspector.judge([photo], [model])
    mask = np.zeros((256, 256), np.uint8)
    mask[100:110, 100:110] = 255
    add_mask(folder, "3", mask)

    pictures = picture_source(tmp_path / "bundle", folder)("test/scratched/3.png")

    assert pictures.attention == judgement.overlay()
    # Reports keep the map as float16: a colour may be the next one.
    drawn, served = pixels_of(pictures.strangeness), pixels_of(judgement.anomaly_map())
    assert np.abs(drawn - served).max() < 24
    assert np.abs(drawn - served).mean() < 0.5
    shown = pixels_of(pictures.photo)
    changed = np.abs(shown - photo.pixels).max(axis=2)
    # The outline runs around the mask and leaves the defect itself as it was.
    assert changed[96, 96:114].mean() > 3 * changed[102:108, 102:108].mean()


def test_the_document_says_what_was_measured_with_what(tmp_path, folder, write_test_bundle):
    bundle = tmp_path / "bundle"
    manifest = write_test_bundle(bundle)
    mark_as_trained_on(bundle, [folder / "test" / "good" / "0.png"])

    document = evaluate(bundle, folder)

    assert document["measured_on"] == "photos not seen in training"
    assert document["trained"]["data_digest"] == manifest.data.digest
    unseen = [p for p in folder.rglob("*.png") if p.name != "0.png"]
    digests = sorted("sha256:" + hashlib.sha256(p.read_bytes()).hexdigest() for p in unseen)
    joined = "\n".join(digests).encode()
    assert document["data_digest"] == "sha256:" + hashlib.sha256(joined).hexdigest()
