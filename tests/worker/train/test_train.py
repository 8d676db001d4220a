"""Whole trainings on small pictures, a random backbone and few steps: what goes where."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.errors import Conflict, InvalidInput, UnusableData
from worker.inspect.bundle import load_bundle
from worker.inspect.files import judge_files, open_bundle
from worker.inspect.pipeline import Judgement
from worker.train import autoencoder, reference
from worker.train import train as training
from worker.train.sources import obtain_backbone
from worker.train.train import train

pytestmark = pytest.mark.usefixtures("short")


def picture(seed: list[int], is_defective: bool) -> np.ndarray:
    """A bright disc on grey, a little different each time; a defect is a dark spot on it."""
    rng = np.random.default_rng(seed)
    image = np.full((150, 150, 3), 120, np.uint8)
    cv2.circle(image, (75, 75), 55, (int(rng.integers(190, 210)),) * 3, -1)
    if is_defective:
        cv2.circle(image, tuple(int(c) for c in rng.integers(55, 95, 2)), 12, (20, 20, 20), -1)
    noise = rng.normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def put(folder: Path, count: int, seed: int, *, is_defective: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:02d}.png"), picture([seed, number], is_defective))


@pytest.fixture
def data(tmp_path):
    put(tmp_path / "data" / "train" / "good", 14, 1, is_defective=False)
    put(tmp_path / "data" / "test" / "good", 2, 2, is_defective=False)
    put(tmp_path / "data" / "test" / "spot", 8, 3, is_defective=True)
    return tmp_path / "data"


def digests(paths):
    return {"sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_folder_becomes_a_bundle_that_judges(data, tmp_path, backbone_file):
    heard = {}
    beside = obtain_backbone(str(backbone_file), tmp_path).path
    manifest = train(
        data,
        product="disc",
        out=tmp_path / "disc",
        backbone=str(backbone_file),
        seed=1,
        progress=lambda step, done, total: heard.update({step: (done, total)}),
    )

    assert all(done == total for done, total in heard.values())
    assert manifest.data.counts == {"good": 14, "spot": 6}
    held_out = set(manifest.data.held_out)
    assert digests((data / "test" / "good").iterdir()) <= held_out
    assert held_out.isdisjoint(manifest.data.trained_on)
    assert held_out | set(manifest.data.trained_on) == digests(data.rglob("*.png"))
    assert manifest.defect_types == ("spot",)
    assert not list(tmp_path.glob(".*unfinished"))
    assert load_bundle(tmp_path / "disc").manifest == manifest
    # The backbone beside the bundle is shared, and not copied.
    assert manifest.backbone.file == beside.name
    assert not (tmp_path / "disc" / beside.name).exists()
    assert load_bundle(tmp_path / "disc").backbone == beside
    inspector, model = open_bundle(tmp_path / "disc")
    outcomes = [o for _, o in judge_files(inspector, model, sorted(data.rglob("test/*/*.png")))]
    assert len(outcomes) == 10
    assert all(isinstance(outcome, Judgement) for outcome in outcomes)


def test_with_folds_every_photo_is_trained_on_and_the_report_tells_of_all(
    data, tmp_path, backbone_file
):
    later = tmp_path / "decided"
    put(later / "test" / "spot", 2, 4, is_defective=True)
    manifest = train(
        data,
        more=[later],
        product="disc",
        out=tmp_path / "disc",
        backbone=str(backbone_file),
        folds=3,
        policy="recall=1",
        report=tmp_path / "report",
    )
    assert set(manifest.data.trained_on) == digests([*data.rglob("*.png"), *later.rglob("*.png")])
    assert manifest.data.held_out == ()
    assert manifest.policy == "recall=1"
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["measured_on"] == "out of fold, 3 folds"
    assert {row["path"] for row in report["photos"]} == {
        *(path.relative_to(data).as_posix() for path in data.rglob("*.png")),
        *(path.as_posix() for path in later.rglob("*.png")),
    }
    assert report["classifier"]["auroc"] == manifest.metrics["classifier_auroc"]
    # Each fold is decided by thresholds of the others.
    thresholds = {row["thresholds"]["defect_probability"] for row in report["photos"]}
    assert 1 < len(thresholds) <= 3
    assert "out of fold" in (tmp_path / "report" / "index.html").read_text()


def test_good_photos_alone_become_a_bundle_and_its_provenance_says_so(
    data, tmp_path, backbone_file
):
    shutil.rmtree(data / "test")
    manifest = train(data, product="disc", out=tmp_path / "disc", backbone=str(backbone_file))
    assert manifest.data.counts == {"good": 14}
    assert manifest.defect_types == ()
    assert "all defects are synthetic" in manifest.provenance
    assert 0 <= manifest.metrics["synthetic_auroc"] <= 1
    assert "classifier_auroc" not in manifest.metrics
    open_bundle(tmp_path / "disc")


def test_a_killed_training_goes_on_where_it_was(data, tmp_path, backbone_file, monkeypatch):
    options = {"product": "disc", "out": tmp_path / "disc", "backbone": str(backbone_file)}
    rendered = training.write_bundle

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "write_bundle", killed)
    with pytest.raises(KeyboardInterrupt):
        train(data, **options)
    assert not (tmp_path / "disc").exists()

    monkeypatch.setattr(training, "write_bundle", rendered)
    monkeypatch.setattr(autoencoder, "train_autoencoder", None)
    opened, seen = training.exact_engine, []

    def watched(*args, **kwargs):
        engine = opened(*args, **kwargs)
        features = engine.features
        engine.features = lambda pixels: seen.append(len(pixels)) or features(pixels)
        return engine

    monkeypatch.setattr(training, "exact_engine", watched)
    train(data, **options)
    assert sum(seen) <= reference.PHOTOS  # the photos themselves, their copies: all kept
    assert load_bundle(tmp_path / "disc")
    assert not list(tmp_path.glob(".*unfinished"))


def test_a_policy_that_there_is_not_is_refused_before_training(data, tmp_path):
    with pytest.raises(InvalidInput, match="best-f1"):
        train(data, product="disc", out=tmp_path / "out", policy="best")


def test_a_mask_that_is_no_picture_is_refused_before_training(data, tmp_path):
    mask = data / "ground_truth" / "spot" / "00_mask.png"
    mask.parent.mkdir(parents=True)
    mask.write_bytes(b"no picture")
    with pytest.raises(UnusableData, match=r"00_mask\.png"):
        train(data, product="disc", out=tmp_path / "out", folds=2, backbone="/nowhere")


def test_what_is_odd_about_the_folder_is_told_before_training(data, tmp_path):
    (data / "train" / "good" / "photo.bmp").write_bytes(b"BM")
    heard = []
    with pytest.raises(InvalidInput):
        train(
            data,
            product="disc",
            out=tmp_path / "disc",
            backbone="/nowhere",
            warn=heard.append,
        )
    assert len(heard) == 1
    assert "photo.bmp" in heard[0]


def test_a_folder_that_holds_something_else_is_refused_before_training(data, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    heard = []
    with pytest.raises(Conflict, match="full"):
        train(
            data,
            product="disc",
            out=tmp_path / "full",
            progress=lambda step, *_: heard.append(step),
        )
    assert heard == []


def test_a_name_that_no_product_can_have_is_refused_before_training(data, tmp_path):
    with pytest.raises(InvalidInput, match="small letters") as raised:
        train(data, product="My Bottle", out=tmp_path / "out")
    assert raised.value.field == "product"


def test_unusable_data_is_refused_before_the_backbone_is_touched(tmp_path):
    with pytest.raises(UnusableData):
        train(tmp_path, product="disc", out=tmp_path / "out", backbone="/nowhere")
