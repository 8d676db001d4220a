import torch

from worker.inspect.good_features import GoodFeatures, pool_deviations
from worker.train.good_features import WORTH_OF_CHANNEL, fit_good_features


def test_each_cell_is_held_against_its_own_mean_and_spread_either_way():
    good = GoodFeatures(torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 5.0]]]))
    maps = torch.tensor([[[[3.0, 0.0]]], [[[-1.0, 10.0]]]])
    deviations = good.deviations(maps)
    assert deviations.tolist() == [[[[2.0, 2.0]]], [[[2.0, 0.0]]]]
    assert pool_deviations(deviations, 1.0).tolist() == [[2.0], [1.0]]
    assert maps[0, 0, 0, 0] == 3.0  # left as it was


def test_mean_and_spread_are_those_over_photos_and_their_copies():
    maps = torch.randn(400, 3, 5, 2, 2, generator=torch.Generator().manual_seed(0)) * 4 + 100
    good = fit_good_features(maps.half())
    every = maps.half().float().flatten(0, 1)
    torch.testing.assert_close(good.mean, every.mean(dim=0), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(good.std, every.std(dim=0), rtol=0.05, atol=0)


def test_with_few_photos_a_cell_borrows_its_spread_from_the_whole_channel():
    maps = torch.zeros(WORTH_OF_CHANNEL, 1, 1, 1, 2)
    maps[::2, ..., 0] = 8.0  # this cell varies by 4, the other not at all: 8 squared over both
    std = fit_good_features(maps).std[0, 0]
    # As many photos as the channel is worth: half of the cell's own, half of the channel's.
    torch.testing.assert_close(std.square(), torch.tensor([(16 + 8) / 2, (0 + 8) / 2]))


def test_a_channel_that_never_changes_does_not_shout():
    maps = torch.randn(10, 1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    maps[:, :, 1] = 0.5
    good = fit_good_features(maps)
    deviation = good.deviations(torch.full((1, 2, 3, 3), 0.5 + 1e-6))[0, 1]
    assert deviation.max() < 0.01
    assert torch.isfinite(good.deviations(torch.full((1, 2, 3, 3), 9.0))).all()


def test_the_larger_the_exponent_the_more_the_cells_count_that_are_furthest_off():
    deviations = torch.ones(1, 3, 8, 8)
    deviations[0, 1, 0, 0] = 9.0
    deviations[0, 2] = 0.0
    averaged, at_peaks = (pool_deviations(deviations, exponent)[0] for exponent in (1.0, 8.0))
    torch.testing.assert_close(averaged, torch.tensor([1.0, 72 / 64, 0.0]))
    torch.testing.assert_close(at_peaks, torch.tensor([1.0, (9.0**8 / 64 + 63 / 64) ** 0.125, 0.0]))


def test_deviations_of_any_size_can_be_pooled():
    huge = torch.full((1, 1, 8, 8), 1e30)
    torch.testing.assert_close(pool_deviations(huge, 8.0), torch.tensor([[1e30]]))
