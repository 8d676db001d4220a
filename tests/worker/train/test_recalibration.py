import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.special import logit

from shared.errors import Conflict, DamagedBundle, UnusableData
from shared.manifest import BY_GOOD_PARTS
from worker.inspect.autoencoder import ResidualStats
from worker.inspect.backbone import pool
from worker.inspect.bundle import load_bundle
from worker.inspect.engines.choice import exact_engine
from worker.inspect.files import open_bundle
from worker.inspect.good_features import GoodFeatures
from worker.inspect.preprocess import prepare
from worker.train import features, recalibration
from worker.train.dataset import LabelledPhoto
from worker.train.features import cache_features
from worker.train.good_features import fit_good_features
from worker.train.recalibration import (
    MIN_PHOTOS,
    _adapt,
    _Readings,
    _Seen,
    _thresholds,
    recalibrate,
)
from worker.train.stages import Stages

COPIES = 3


@pytest.fixture(autouse=True)
def _few_copies(monkeypatch):
    """Turned and relit, of each photo: eight take their time."""
    for module in (features, recalibration):
        monkeypatch.setattr(module, "COPIES", COPIES)


@pytest.fixture
def bundle(tmp_path, write_test_bundle):
    write_test_bundle(tmp_path / "bottle")
    return tmp_path / "bottle"


@pytest.fixture
def good(tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for number in range(12):
        rng = np.random.default_rng(number)
        image = np.full((300, 300, 3), 90.0)
        cv2.circle(image, (150, 150), 100, (int(rng.integers(150, 170)),) * 3, -1)
        image += rng.normal(0, 6, image.shape)
        cv2.imwrite(str(folder / f"{number:02d}.png"), np.clip(image, 0, 255).astype(np.uint8))
    return folder


def test_statistics_and_thresholds_change_and_no_weight_does(bundle, good, tmp_path):
    before = load_bundle(bundle)
    manifest = recalibrate(bundle, good, out=tmp_path / "new")
    after = load_bundle(tmp_path / "new")

    assert after.manifest == manifest
    assert after.digest != before.digest
    assert manifest.recalibrated_from == before.digest
    assert manifest.product == before.manifest.product
    assert len(manifest.data.calibrated_on) == 12
    assert manifest.data.seen > set(manifest.data.calibrated_on)
    assert manifest.data.trained_on == before.manifest.data.trained_on
    for one, other in zip(
        before.parts.autoencoder.parameters(), after.parts.autoencoder.parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert torch.equal(before.parts.head.hidden_weight, after.parts.head.hidden_weight)
    assert torch.equal(before.parts.head.output_weight, after.parts.head.output_weight)
    assert not torch.equal(before.parts.good_features.mean, after.parts.good_features.mean)
    assert not torch.equal(before.parts.good_residuals.mean, after.parts.good_residuals.mean)
    assert not torch.equal(before.parts.domain.mean, after.parts.domain.mean)
    assert manifest.metrics["calibration_photos"] == 12
    assert "classifier_auroc" not in manifest.metrics
    assert manifest.policy == BY_GOOD_PARTS
    assert "Recalibrated on 12 photos" in manifest.provenance


def test_good_parts_of_the_new_camera_are_at_home_and_quiet_afterwards(bundle, good, tmp_path):
    recalibrate(bundle, good, out=tmp_path / "new")
    inspector, model = open_bundle(tmp_path / "new")
    photos = [prepare(path.read_bytes()) for path in sorted(good.iterdir())]
    judgements = inspector.judge(photos, [model] * len(photos))
    assert all(judgement.outcome.is_in_domain for judgement in judgements)
    assert sum(judgement.outcome.is_defective for judgement in judgements) <= 1
    assert sum(judgement.outcome.is_anomalous for judgement in judgements) <= 1
    assert not any(judgement.scores.quality_reasons for judgement in judgements)


@pytest.mark.parametrize(("middle", "spread"), [(-2.0, 0.2), (-5.0, 1.5), (3.0, 0.5)])
def test_the_classifiers_threshold_lies_as_far_from_good_parts_whatever_the_camera_shows(
    make_manifest, middle, spread
):
    """One good part in a hundred above it, no more than one in twenty where a person looks."""
    manifest = make_manifest("bottle", temperature=2.0)
    before = manifest.thresholds
    odds = middle + spread * torch.randn(20000, generator=torch.Generator().manual_seed(0))
    other = torch.rand(20000, generator=torch.Generator().manual_seed(1)) + 1

    after = _thresholds(manifest, _Readings(2.0 * odds, other, other, torch.arange(20000)))

    passing = (odds >= logit(after.defect_probability)).float().mean()
    assert float(passing) == pytest.approx(0.01, rel=0.15)
    held = (odds >= logit(after.near_threshold_low)).float().mean()
    assert float(held) <= 0.052
    width = logit(after.near_threshold_high) - logit(after.near_threshold_low)
    assert width <= logit(before.near_threshold_high) - logit(before.near_threshold_low) + 1e-6
    assert after.near_threshold_low < after.defect_probability < after.near_threshold_high


def test_what_the_camera_does_to_all_photos_alike_is_taken_out(bundle):
    """Features that all moved by the same step are read as before the move."""
    parts = load_bundle(bundle).parts
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(40, 1024, 8, 8, generator=generator)
    step = torch.rand(1024, 8, 8, generator=generator) * 3  # all stay above 0, where the ReLU is
    residuals = torch.rand(40, 256, 256, generator=generator)

    still, moved = (_adapt(parts, _Seen(seen[:, None], residuals)) for seen in (maps, maps + step))

    torch.testing.assert_close(
        moved.good_features.deviations(maps + step),
        still.good_features.deviations(maps),
        rtol=1e-3,
        atol=1e-3,
    )
    torch.testing.assert_close(
        moved.domain.distance(pool(maps + step)),
        still.domain.distance(pool(maps)),
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("turned", [False, True])
def test_good_parts_are_looked_at_as_the_head_learnt_to_see_them(bundle, good, tmp_path, turned):
    """The same means as those of a training with these photos."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["augmentation"]["turned"] = turned
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    recalibrate(bundle, good, out=tmp_path / "new")
    after = load_bundle(tmp_path / "new")

    photos = [
        LabelledPhoto(path, "train", "good", str(path), prepare(path.read_bytes()), group)
        for group, path in enumerate(sorted(good.iterdir()))
    ]
    trained = cache_features(
        photos,
        exact_engine(after.backbone, sha256=after.manifest.backbone.sha256),
        seed=manifest["seed"],
        stages=Stages(tmp_path / "stages", {}),
        needs_synthetic=False,
    )
    expected = fit_good_features(trained.maps[:, : COPIES if turned else 1])
    torch.testing.assert_close(
        after.parts.good_features.mean,
        expected.mean,
        rtol=2e-3,
        atol=2e-3 * float(expected.mean.abs().max()),
    )


def test_a_second_camera_is_remembered_beside_the_first(bundle, good, tmp_path):
    first = recalibrate(bundle, good, out=tmp_path / "first")
    other = tmp_path / "other"
    other.mkdir()
    for path in good.iterdir():
        cv2.imwrite(str(other / path.name), cv2.imread(str(path))[::-1])
    second = recalibrate(tmp_path / "first", other, out=tmp_path / "second")
    assert set(second.data.calibrated_on) > set(first.data.calibrated_on)
    assert len(second.data.calibrated_on) == 24
    assert second.policy == first.policy
    assert second.recalibrated_from == load_bundle(tmp_path / "first").digest


def test_frames_of_the_same_part_count_once(bundle, good, tmp_path):
    for path in sorted(good.iterdir())[6:]:
        path.unlink()
    for path in list(good.iterdir()):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path.with_suffix(".jpg")), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    with pytest.raises(UnusableData, match="12 photos show 6 parts"):
        recalibrate(bundle, good, out=tmp_path / "new")


def test_few_photos_move_the_spread_a_little_and_the_mean_at_once(bundle):
    parts = load_bundle(bundle).parts
    # Twenty photos count as much as the training: halfway between the variances.
    known = ResidualStats(torch.zeros(256, 256), torch.full((256, 256), 3.0))
    usual = GoodFeatures(
        torch.zeros(1024, 8, 8), torch.full((1024, 8, 8), 3.0), parts.good_features.whitening
    )
    residuals, maps = torch.full((20, 256, 256), 5.0), torch.full((20, 1, 1024, 8, 8), 5.0)
    residuals[::2] = maps[::2] = 7.0
    parts = replace(parts, good_residuals=known, good_features=usual)
    adapted = _adapt(parts, _Seen(maps, residuals))
    torch.testing.assert_close(adapted.good_features.mean, torch.full((1024, 8, 8), 6.0))
    torch.testing.assert_close(adapted.good_features.std, torch.full((1024, 8, 8), 5.0**0.5))
    torch.testing.assert_close(adapted.good_residuals.mean, torch.full((256, 256), 6.0))
    expected = ((9.0 + 20 / 19) / 2) ** 0.5
    torch.testing.assert_close(adapted.good_residuals.std, torch.full((256, 256), expected))


def test_unusable_photos_are_all_named_with_a_remedy(bundle, good, tmp_path):
    (good / "00.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (good / "99.png").write_bytes((good / "01.png").read_bytes())
    with pytest.raises(UnusableData) as raised:
        recalibrate(bundle, good, out=tmp_path / "new")
    message = str(raised.value)
    assert "00.png cannot be used" in message
    assert "99.png is the same photo as" in message
    assert not (tmp_path / "new").exists()


def test_too_few_photos_are_refused(bundle, good, tmp_path):
    for path in sorted(good.iterdir())[MIN_PHOTOS - 1 :]:
        path.unlink()
    with pytest.raises(UnusableData, match=f"at least {MIN_PHOTOS} are needed"):
        recalibrate(bundle, good, out=tmp_path / "new")


def test_a_damaged_bundle_and_a_full_folder_are_refused(bundle, good, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep")
    with pytest.raises(Conflict, match="full"):
        recalibrate(bundle, good, out=tmp_path / "full")
    with (bundle / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00")
    with pytest.raises(DamagedBundle, match=r"model\.safetensors"):
        recalibrate(bundle, good, out=tmp_path / "new")
