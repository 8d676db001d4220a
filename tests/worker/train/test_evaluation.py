import hashlib
import json

import cv2
import numpy as np
import pytest

from shared.errors import UnusableData
from worker.inspect.bundle import load_bundle
from worker.train.evaluation import evaluate


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
