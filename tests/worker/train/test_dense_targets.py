import numpy as np
import torch

from worker.train.dense_targets import MEASURES, PIXELS, dense_targets


def pictures(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(40, 120, (count, 128, 128, 3), dtype=np.uint8)


def test_each_cell_has_its_pixels_and_its_measures():
    targets = dense_targets(pictures())
    assert targets.pixels.shape == (4, PIXELS, 4, 4)
    assert targets.measures.shape == (4, MEASURES, 4, 4)
    assert targets.pixels.mean(dim=1).abs().max() < 1e-4
    assert targets.measures.std(dim=(0, 2, 3)).max() < 1.01


def test_pixels_are_those_of_the_cell_and_stay_the_same_in_another_light():
    some = pictures()
    before = dense_targets(some).pixels
    some[0, 32:64, 64:96] = 255 - some[0, 32:64, 64:96]
    after = dense_targets(some).pixels
    changed = (before - after).abs().amax(dim=1) > 1e-4
    assert changed.nonzero().tolist() == [[0, 1, 2]]
    brighter = dense_targets((pictures() * 2).astype(np.uint8)).pixels
    assert torch.cosine_similarity(brighter, before, dim=1).min() > 0.99


def test_an_even_cell_has_no_pixels_to_tell():
    even = np.full((2, 128, 128, 3), 90, np.uint8)
    targets = dense_targets(even)
    assert targets.pixels.abs().max() < 1e-3
    assert torch.isfinite(targets.measures).all()
