import pytest
import torch

from worker.inspect.autoencoder import (
    Autoencoder,
    ResidualStats,
    anomaly_score,
    deviation,
    residual,
    smooth,
    standardised,
)


def test_the_residual_is_the_squared_error_averaged_over_channels():
    photo = torch.zeros(1, 3, 2, 2)
    rebuilt = torch.zeros(1, 3, 2, 2)
    rebuilt[0, :, 0, 1] = torch.tensor([0.1, 0.2, 0.4])
    # (0.01 + 0.04 + 0.16) / 3
    torch.testing.assert_close(residual(photo, rebuilt), torch.tensor([[[0.0, 0.07], [0.0, 0.0]]]))


def test_smoothing_spreads_a_speck_over_eleven_by_eleven_pixels():
    speck = torch.zeros(1, 40, 40)
    speck[0, 20, 20] = 121.0
    smoothed = smooth(speck)[0]
    assert smoothed[15:26, 15:26].eq(1.0).all()
    assert smoothed.sum() == 121.0


def test_the_border_is_not_darkened_by_pixels_that_are_not_there():
    torch.testing.assert_close(smooth(torch.ones(1, 20, 20)), torch.ones(1, 20, 20))


def test_each_pixel_is_measured_against_its_own_mean_and_deviation():
    good = ResidualStats(mean=torch.full((16, 16), 2.0), std=torch.full((16, 16), 0.5))
    maps = standardised(deviation(torch.full((1, 16, 16), 9.0)), good)
    torch.testing.assert_close(maps, torch.full((1, 16, 16), 2.0))  # (√9 - 2) / 0.5


def test_the_score_is_the_strangest_pixel():
    maps = torch.tensor([[[0.0, 1.0], [7.5, -3.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    assert anomaly_score(maps).tolist() == [7.5, -1.0]


def test_statistics_of_another_size_are_refused():
    good = ResidualStats(mean=torch.zeros(8, 8), std=torch.ones(8, 8))
    with pytest.raises(ValueError, match="16"):
        standardised(torch.zeros(1, 16, 16), good)


def test_the_code_is_a_real_bottleneck_and_the_photo_comes_back_in_full_size():
    autoencoder = Autoencoder().eval()
    with torch.no_grad():
        code = autoencoder.encoder(torch.rand(2, 3, 256, 256))
        rebuilt = autoencoder(torch.rand(2, 3, 256, 256))
    assert code.shape == (2, 4, 8, 8)
    assert rebuilt.shape == (2, 3, 256, 256)
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1
