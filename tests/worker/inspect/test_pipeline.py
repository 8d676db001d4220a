from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from shared.errors import InvalidInput
from shared.verdicts import Disposition, QualityReason, ReviewReason, Verdict
from worker.inspect.backbone import digest_of
from worker.inspect.bundle import load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.overlay import draw_overlay
from worker.inspect.pipeline import Inspector
from worker.inspect.preprocess import Photo, measure_quality


@pytest.fixture(scope="module")
def bottle(tmp_path_factory, write_test_bundle):
    folder = tmp_path_factory.mktemp("models") / "bottle"
    write_test_bundle(folder, seed=1)
    return load_bundle(folder)


@pytest.fixture(scope="module")
def grid(tmp_path_factory, write_test_bundle):
    folder = tmp_path_factory.mktemp("models") / "grid"
    write_test_bundle(folder, seed=2, product="grid")
    return load_bundle(folder)


class CountingEngine(TorchEngine):
    passes = 0

    def features(self, photos):
        self.passes += 1
        return super().features(photos)


@pytest.fixture(scope="module")
def inspector(backbone_file):
    return Inspector(CountingEngine(backbone_file, sha256=digest_of(backbone_file)))


def numbers(judgement):
    scores = judgement.scores
    return [scores.defect_probability, scores.mse, scores.anomaly_score, scores.domain_distance]


def test_a_mixed_batch_takes_one_pass_and_each_photo_its_own_model(inspector, photos, bottle, grid):
    models = [bottle, grid, grid, bottle]
    alone = [
        inspector.judge([photo], [model])[0]
        for photo, model in zip(photos[:4], models, strict=True)
    ]
    before = inspector.engine.passes

    together = inspector.judge(photos[:4], models)

    assert inspector.engine.passes == before + 1
    for mixed, single in zip(together, alone, strict=True):
        assert mixed.photo is single.photo
        np.testing.assert_allclose(numbers(mixed), numbers(single), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mixed.attention, single.attention, atol=1e-4)
        np.testing.assert_allclose(mixed.strangeness, single.strangeness, atol=1e-4)


def test_the_scores_are_those_of_the_parts_put_together_by_hand(inspector, photos, bottle):
    """Independent of `read`: torchvision's own order of layers, numpy for the rest."""
    (judgement,) = inspector.judge(photos[:1], [bottle])
    pixels = photos[0].pixels.astype(np.float64) / 255
    inputs = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    from worker.inspect.backbone import load_backbone

    backbone = load_backbone(bottle.backbone).double()
    with torch.no_grad():
        maps = backbone(torch.from_numpy(inputs.transpose(2, 0, 1))[None])[0].numpy()
        unit = torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None]
        rebuilt = bottle.parts.autoencoder(unit)[0].numpy()
    usual, spread, whitening = (
        getattr(bottle.parts.good_features, part).double().numpy()
        for part in ("mean", "std", "whitening")
    )
    away = ((maps - usual) / spread).reshape(1024, 64)
    pooled = np.abs(whitening @ away).mean(axis=1)
    head = {
        name: getattr(bottle.parts.head, name).double().numpy()
        for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
    }
    hidden = np.maximum(head["hidden_weight"] @ pooled + head["hidden_bias"], 0)
    good, defective = np.exp((head["output_weight"] @ hidden + head["output_bias"]) / 1.5)
    photo = pixels.transpose(2, 0, 1)
    roots = (np.sqrt(np.maximum(picture, 1 / 255)) for picture in (photo, rebuilt))
    squared = ((next(roots) - next(roots)) ** 2).mean(axis=0)

    scores = judgement.scores
    assert scores.defect_probability == pytest.approx(defective / (good + defective), abs=1e-4)
    assert scores.mse == pytest.approx(((photo - rebuilt) ** 2).mean(), rel=1e-4)
    # cv2's border is mirrored, ours counts only real pixels: compare inside.
    inner = slice(16, -16)
    stats = bottle.parts.good_residuals
    z = (np.sqrt(cv2.blur(squared, (11, 11))) - stats.mean.numpy()) / stats.std.numpy()
    surroundings = cv2.blur(np.abs(z), (21, 21))
    np.testing.assert_allclose(
        judgement.strangeness[inner, inner], surroundings[inner, inner], rtol=1e-4, atol=1e-3
    )


def test_the_maps_are_drawn_in_the_bundles_fixed_scales(inspector, photos, bottle):
    (judgement,) = inspector.judge(photos[:1], [bottle])
    limits = bottle.manifest.limits
    flat = np.full((256, 256), (limits.anomaly_low + limits.anomaly_high) / 2, np.float32)
    halfway = replace(judgement, strangeness=flat, attention=flat[:8, :8] * 0)

    heat = np.full((256, 256), 0.5, np.float32)
    assert halfway.anomaly_map() == draw_overlay(photos[0].pixels, heat)
    assert halfway.overlay() == draw_overlay(photos[0].pixels, heat * 0)


def test_both_pictures_are_jpegs_of_256_by_256(inspector, photos, bottle):
    (judgement,) = inspector.judge(photos[:1], [bottle])
    for jpeg in (judgement.overlay(), judgement.anomaly_map()):
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert jpeg.startswith(b"\xff\xd8\xff")
        assert picture.shape == (256, 256, 3)


def test_a_dark_photo_is_undecidable_and_held(inspector, bottle):
    black = np.zeros((256, 256, 3), np.uint8)
    (judgement,) = inspector.judge([Photo(black, measure_quality(black))], [bottle])
    assert judgement.scores.quality_reasons == (QualityReason.BLURRED, QualityReason.DARK)
    assert judgement.outcome.verdict is Verdict.UNDECIDABLE
    assert judgement.outcome.disposition is Disposition.HOLD
    assert ReviewReason.LOW_QUALITY in judgement.outcome.review_reasons


def test_no_photos_give_no_judgements(inspector):
    assert inspector.judge([], []) == []


def test_a_model_of_another_backbone_is_refused(photos, bottle, inspector, monkeypatch):
    monkeypatch.setattr(inspector.engine, "backbone_sha256", "sha256:" + "1" * 64)
    with pytest.raises(InvalidInput, match="backbone"):
        inspector.judge(photos[:1], [bottle])


def test_judging_twice_gives_the_same_numbers(inspector, photos, bottle):
    first, second = (inspector.judge(photos[:3], [bottle] * 3) for _ in range(2))
    assert [numbers(one) for one in first] == [numbers(one) for one in second]
