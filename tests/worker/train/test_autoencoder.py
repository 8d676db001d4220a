import numpy as np
import torch

from worker.train import autoencoder
from worker.train.autoencoder import (
    read_errors,
    residual_stats,
    staged_autoencoder,
    train_autoencoder,
)
from worker.train.stages import Stages


def pictures(count: int) -> np.ndarray:
    """A bright square on grey whose brightness varies."""
    photos = np.full((count, 256, 256, 3), 90, np.uint8)
    for number in range(count):
        photos[number, 64:192, 64:192] = 120 + 10 * number
    return photos


def test_training_learns_to_rebuild_and_its_weights_are_what_half_precision_holds(monkeypatch):
    good = pictures(4)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    monkeypatch.setattr(autoencoder, "STEPS", 30)
    trained = train_autoencoder(good, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    monkeypatch.setattr(autoencoder, "STEPS", 2)
    barely = train_autoencoder(good, seed=0)
    (mses, deviations), (worse, _) = read_errors(trained, good), read_errors(barely, good)
    assert mses.mean() < 0.5 * worse.mean()
    assert deviations.shape == (4, 256, 256)
    assert all(torch.equal(w, w.half().float()) for w in trained.parameters())
    assert not trained.training


def test_statistics_are_mean_and_spread_of_the_deviations_with_a_floor():
    # Two good photos: 1 and 3 everywhere, but 2 and 2 in one quarter.
    deviations = torch.stack([torch.full((64, 64), 1.0), torch.full((64, 64), 3.0)])
    deviations[:, :32, :32] = 2.0
    stats = residual_stats(deviations)
    assert stats.mean[60, 60] == 2.0
    assert stats.mean[5, 5] == 2.0
    # Deviation of 1 and 3 is the root of 2; it is also the upper quartile, so the quiet
    # quarter gets it as its floor.
    torch.testing.assert_close(stats.std, torch.full((64, 64), 2.0**0.5))


def test_a_finished_autoencoder_is_read_and_not_trained_again(monkeypatch, tmp_path):
    monkeypatch.setattr(autoencoder, "STEPS", 2)
    good = pictures(2)
    first = staged_autoencoder("ae", good, seed=0, stages=Stages(tmp_path / "s", {}))
    monkeypatch.setattr(autoencoder, "train_autoencoder", None)
    again = staged_autoencoder("ae", good, seed=0, stages=Stages(tmp_path / "s", {}))
    for one, other in zip(read_errors(first, good), read_errors(again, good), strict=True):
        assert torch.equal(one, other)
