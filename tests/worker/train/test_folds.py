import numpy as np
import torch

from worker.train import head as head_training
from worker.train.features import CachedFeatures
from worker.train.folds import out_of_fold


def random_features(count: int) -> CachedFeatures:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(count, 1024, 2, 2, generator=generator)
    fingerprints = torch.relu(maps).mean(dim=(2, 3))[:, None].expand(-1, 3, -1).clone()
    return CachedFeatures(maps, fingerprints, torch.arange(count) % 3 == 0)


def test_labels_without_meaning_cannot_be_predicted_out_of_fold(monkeypatch):
    """In the fold such a head would be right nearly always: with 1024 numbers it can
    learn thirty photos by heart."""
    monkeypatch.setattr(head_training, "STEPS", 200)
    features = random_features(60)
    margins = out_of_fold(features, copies=1, seed=0).margins
    is_right = (margins > 0) == features.is_defective.numpy()
    assert 0.35 < is_right.mean() < 0.8


def test_every_photo_gets_a_reading_and_copies_do_not_multiply_them(monkeypatch):
    monkeypatch.setattr(head_training, "STEPS", 10)
    folds = out_of_fold(random_features(30), copies=3, seed=0)
    assert folds.margins.shape == (30,)
    assert np.isfinite(folds.margins).all()
    assert folds.attention.shape == (30, 2, 2)
    assert (folds.domain_distances > 0).all()


def test_a_strange_photo_is_far_from_the_domain_because_it_is_not_in_its_own_fold(monkeypatch):
    monkeypatch.setattr(head_training, "STEPS", 1)
    features = random_features(40)
    features.fingerprints[7] += 3.0
    distances = out_of_fold(features, copies=1, seed=0).domain_distances
    assert distances.argmax() == 7
    assert distances[7] > 2 * np.median(distances)
