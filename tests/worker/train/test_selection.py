import numpy as np
import pytest
import torch

from worker.train.features import CachedFeatures, Shown
from worker.train.head import ENOUGH_DEFECTS
from worker.train.selection import PEAKS, choose, read_probes

COPIES, CHANNELS, CELLS = 3, 24, 4
COUNT = 90
FOLD_OF = np.arange(COUNT) % 5
EVERYTHING = np.ones(COUNT, np.bool_)


def noise(defective: int = COUNT // 3) -> CachedFeatures:
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(COUNT, COPIES, CHANNELS, CELLS, CELLS, generator=generator)
    synthetic = torch.randn(COUNT, 2, CHANNELS, CELLS, CELLS, generator=generator)
    return CachedFeatures(maps.half(), synthetic.half(), torch.arange(COUNT) < defective)


def with_large_defects(features: CachedFeatures) -> CachedFeatures:
    """No cell is further off than before, but none is left where it should be."""
    for maps, rows in (
        (features.maps, features.is_defective.nonzero()[:, 0]),
        (features.synthetic, slice(None)),
    ):
        channel = maps[rows, :, 5]
        maps[rows, :, 5] = channel.sign() * channel.abs().clamp(min=1.0)
    return features


def chosen(features: CachedFeatures) -> Shown:
    return choose(read_probes(features, FOLD_OF), features, EVERYTHING)


def test_where_there_is_nothing_to_see_photos_are_turned_and_the_cells_furthest_off_count():
    assert chosen(noise()) == Shown(COPIES, PEAKS)


def test_large_defects_are_averaged():
    assert chosen(with_large_defects(noise())).exponent == 1.0


def test_small_defects_are_seen_in_the_cells_that_are_furthest_off():
    features = noise()
    features.maps[features.is_defective, :, 5, 2, 1] = 5.0
    assert chosen(features).exponent == PEAKS


def test_where_turning_makes_good_parts_look_defective_they_are_shown_as_they_are():
    features = noise()
    features.maps[features.is_defective, 0, 5] += 3.0
    features.maps[~features.is_defective, 1:, 5] += 3.0
    assert chosen(features).copies == 1


@pytest.mark.parametrize("defective", [0, ENOUGH_DEFECTS - 1])
def test_without_enough_real_defects_nobody_knows_how_large_they_are(defective):
    assert chosen(with_large_defects(noise(defective))).exponent == PEAKS


def test_a_fold_without_which_too_few_real_defects_are_left_takes_them_for_small():
    features = with_large_defects(noise(ENOUGH_DEFECTS))
    probes = read_probes(features, FOLD_OF)
    assert choose(probes, features, EVERYTHING).exponent == 1.0
    assert choose(probes, features, FOLD_OF != 0).exponent == PEAKS


def test_the_probe_of_a_fold_has_not_seen_its_photos_nor_their_damaged_versions():
    first, changed = noise(), noise()
    changed.maps[3] += 1
    changed.synthetic[3] -= 1
    changed.is_defective[3] = ~changed.is_defective[3]
    probes, others = read_probes(first, FOLD_OF), read_probes(changed, FOLD_OF)
    same_fold = (np.arange(COUNT) != 3) & (FOLD_OF[3] == FOLD_OF)
    for shown, probe in probes.items():
        assert np.array_equal(probe.margins[same_fold], others[shown].margins[same_fold])
        assert not np.array_equal(probe.margins, others[shown].margins)


def test_the_choice_for_a_fold_is_made_by_the_others():
    features = with_large_defects(noise())
    probes = read_probes(features, FOLD_OF)
    before = choose(probes, features, FOLD_OF != 2)
    for probe in probes.values():
        probe.margins[FOLD_OF == 2] = 0.0
    assert choose(probes, features, FOLD_OF != 2) == before
