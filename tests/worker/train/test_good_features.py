import pytest
import torch

from worker.inspect.good_features import GoodFeatures, pool_deviations, shares_of
from worker.train.good_features import WORTH_OF_CHANNEL, fit_good_features


def test_each_cell_is_held_against_its_own_mean_and_spread_either_way():
    good = GoodFeatures(torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[1.0, 5.0]]]), torch.eye(1))
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


def test_what_channels_do_together_is_usual_and_what_one_does_alone_is_not():
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(200, 1, 1, 4, 4, generator=generator)
    apart = 0.05 * torch.randn(200, 1, 2, 4, 4, generator=generator)
    good = fit_good_features(both + apart)
    together, alone = (
        good.deviations(torch.tensor(away)[None, :, None, None].expand(1, 2, 4, 4)).norm()
        for away in ([1.0, 1.0], [1.0, 0.0])
    )
    assert alone > 3 * together


def test_whitened_good_parts_vary_as_much_in_every_direction():
    generator = torch.Generator().manual_seed(0)
    maps = torch.einsum(
        "kc,nxchw->nxkhw",
        torch.randn(6, 6, generator=generator),
        torch.randn(300, 2, 6, 3, 3, generator=generator),
    )
    good = fit_good_features(maps)
    assert torch.equal(good.whitening, good.whitening.T)
    squares = good.deviations(maps.flatten(0, 1)).square().mean(dim=(0, 2, 3))
    assert (squares - 1).abs().max() < 0.15


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
    assert deviation.max() < 0.05
    assert torch.isfinite(good.deviations(torch.full((1, 2, 3, 3), 9.0))).all()


def test_the_larger_the_exponent_the_more_the_cells_count_that_are_furthest_off():
    deviations = torch.ones(1, 3, 8, 8)
    deviations[0, 1, 0, 0] = 9.0
    deviations[0, 2] = 0.0
    averaged, at_peaks = (pool_deviations(deviations, exponent)[0] for exponent in (1.0, 8.0))
    torch.testing.assert_close(averaged, torch.tensor([1.0, 72 / 64, 0.0]))
    torch.testing.assert_close(at_peaks, torch.tensor([1.0, (9.0**8 / 64 + 63 / 64) ** 0.125, 0.0]))


@pytest.mark.parametrize("exponent", [2.0, 3.0, 6.0, 8.0])
def test_powers_are_those_of_the_formula(exponent):
    deviations = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pooled = pool_deviations(deviations, exponent)
    exact = deviations.double().pow(exponent).mean(dim=(2, 3)).pow(1 / exponent)
    torch.testing.assert_close(pooled, exact.float())
    shares = shares_of(deviations, pooled, exponent)
    torch.testing.assert_close(shares.mean(dim=(2, 3)), pooled)
    by_cell = (deviations / pooled[:, :, None, None]).pow(exponent - 1) * deviations
    torch.testing.assert_close(shares, by_cell)


def test_deviations_of_any_size_can_be_pooled():
    huge = torch.full((1, 1, 8, 8), 1e30)
    torch.testing.assert_close(pool_deviations(huge, 8.0), torch.tensor([[1e30]]))
