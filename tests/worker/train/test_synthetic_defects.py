import numpy as np
import pytest

from worker.train import synthetic_defects
from worker.train.render_parts import render_parts
from worker.train.synthetic_defects import KINDS, MIN_PIXELS, VISIBLE, damage


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(4)
    return render_parts(rng), render_parts(rng)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_a_visible_part_of_the_picture_and_nothing_else(
    kind, pictures, monkeypatch
):
    monkeypatch.setattr(synthetic_defects, "KINDS", (kind,))
    photo, donor = pictures
    before = photo.copy()
    for seed in range(5):
        damaged = damage(np.random.default_rng(seed), photo, donor)
        change = np.abs(damaged.image.astype(int) - photo).max(axis=2)
        assert damaged.kind == kind
        assert damaged.image.dtype == np.uint8
        assert damaged.image.shape == photo.shape
        assert MIN_PIXELS <= damaged.mask.sum() < 0.6 * damaged.mask.size
        assert (change[damaged.mask] >= VISIBLE).all()
        assert change[~damaged.mask].max() < VISIBLE
    assert np.array_equal(photo, before)


def test_the_same_generator_state_gives_the_same_defect_and_another_another(pictures):
    first, again, other = (damage(np.random.default_rng(s), *pictures) for s in (1, 1, 2))
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


def test_defects_come_in_all_kinds_and_sizes_and_everywhere(pictures):
    rng = np.random.default_rng(0)
    drawn = [damage(rng, *pictures) for _ in range(150)]
    shares = np.array([d.mask.mean() for d in drawn])
    assert {d.kind for d in drawn} == set(KINDS)
    assert np.quantile(shares, 0.1) < 0.002
    assert np.quantile(shares, 0.9) > 0.01
    touched = np.stack([d.mask for d in drawn]).any(axis=0)
    assert touched.reshape(8, 32, 8, 32).any(axis=(1, 3)).all()


def test_it_works_on_a_plain_white_picture_too():
    white = np.full((256, 256, 3), 255, np.uint8)
    for seed in range(10):
        assert damage(np.random.default_rng(seed), white, white).image.shape == white.shape
