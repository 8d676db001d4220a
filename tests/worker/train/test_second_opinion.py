import numpy as np
import pytest
import torch

from worker.inspect.preprocess import Photo, measure_quality
from worker.train import autoencoder
from worker.train.dataset import LabelledPhoto
from worker.train.second_opinion import make_second_opinion


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(autoencoder, "STEPS", 6)


def labelled(tmp_path, label, count, *, spot):
    photos = []
    for number in range(count):
        rng = np.random.default_rng([number, spot])
        pixels = np.clip(130 + rng.normal(0, 5, (256, 256, 3)), 0, 255).astype(np.uint8)
        if spot:
            pixels[100:140, 90:130] = spot
        photo = Photo(pixels, measure_quality(pixels))
        photos.append(LabelledPhoto(tmp_path, "train", label, f"{label}{number}", photo, number))
    return photos


def test_defects_are_only_measured_on_and_change_no_weight_and_no_threshold(tmp_path):
    good = labelled(tmp_path, "good", 12, spot=0)
    dark, bright = (
        make_second_opinion([*good, *labelled(tmp_path, "spot", 4, spot=value)], seed=0)
        for value in (5, 250)
    )
    assert dark.threshold == bright.threshold
    assert torch.equal(dark.good_residuals.std, bright.good_residuals.std)
    for one, other in zip(
        dark.autoencoder.parameters(), bright.autoencoder.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_spot_that_no_good_part_has_is_told_apart(tmp_path):
    photos = [
        *labelled(tmp_path, "good", 12, spot=0),
        *labelled(tmp_path, "spot", 4, spot=5),
    ]
    assert make_second_opinion(photos, seed=0).metrics["autoencoder_auroc"] == 1.0
