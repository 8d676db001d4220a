import pytest
import torch

from worker.inspect.autoencoder import (
    SURROUNDINGS_PX,
    Autoencoder,
    ResidualStats,
    anomaly_map,
    anomaly_score,
    deviation,
    mean_squared_error,
    smooth,
)


def test_the_mse_is_the_squared_error_averaged_over_channels_and_pixels():
    photo = torch.zeros(1, 3, 2, 2)
    rebuilt = torch.zeros(1, 3, 2, 2)
    rebuilt[0, :, 0, 1] = torch.tensor([0.1, 0.2, 0.4])
    # (0.01 + 0.04 + 0.16) / 3 / 4
    torch.testing.assert_close(mean_squared_error(photo, rebuilt), torch.tensor([0.0175]))


def test_what_deviates_is_the_root_of_grey_values_so_that_the_dark_counts_as_much():
    photo = torch.full((1, 3, 16, 16), 0.81)
    in_light = deviation(photo, torch.full((1, 3, 16, 16), 0.64))
    torch.testing.assert_close(in_light, torch.full((1, 16, 16), 0.1))
    in_shade = deviation(photo / 81, torch.full((1, 3, 16, 16), 0.04))
    torch.testing.assert_close(in_shade, in_light)
    nearly_black = deviation(photo * 0, torch.full((1, 3, 16, 16), 0.003))
    assert nearly_black.max() == 0


def test_smoothing_spreads_a_speck_over_eleven_by_eleven_pixels():
    speck = torch.zeros(1, 40, 40)
    speck[0, 20, 20] = 121.0
    smoothed = smooth(speck, 11)[0]
    torch.testing.assert_close(smoothed[15:26, 15:26], torch.ones(11, 11))
    assert smoothed.sum().item() == pytest.approx(121.0)


def test_the_border_is_not_darkened_by_pixels_that_are_not_there():
    torch.testing.assert_close(smooth(torch.ones(1, 20, 20), 11), torch.ones(1, 20, 20))


def test_each_pixel_is_measured_against_its_own_mean_and_deviation():
    good = ResidualStats(mean=torch.full((16, 16), 2.0), std=torch.full((16, 16), 0.5))
    maps = anomaly_map(torch.full((1, 16, 16), 3.0), good)
    torch.testing.assert_close(maps, torch.full((1, 16, 16), 2.0))  # (3 - 2) / 0.5


def test_an_error_that_is_missing_is_as_strange_as_one_too_many():
    good = ResidualStats(mean=torch.full((16, 16), 2.0), std=torch.full((16, 16), 0.5))
    maps = anomaly_map(torch.full((1, 16, 16), 1.0), good)
    torch.testing.assert_close(maps, torch.full((1, 16, 16), 2.0))  # (2 - 1) / 0.5


def test_a_strange_pixel_counts_in_its_surroundings():
    good = ResidualStats(mean=torch.zeros(64, 64), std=torch.ones(64, 64))
    deviations = torch.zeros(1, 64, 64)
    deviations[0, 32, 32] = float(SURROUNDINGS_PX**2)
    maps = anomaly_map(deviations, good)[0]
    half = SURROUNDINGS_PX // 2
    strange = torch.zeros(64, 64)
    strange[32 - half : 33 + half, 32 - half : 33 + half] = 1.0
    torch.testing.assert_close(maps, strange)


def test_the_score_is_the_strangest_pixel():
    maps = torch.tensor([[[0.0, 1.0], [7.5, -3.0]], [[-1.0, -2.0], [-3.0, -4.0]]])
    assert anomaly_score(maps).tolist() == [7.5, -1.0]


def test_statistics_of_another_size_are_refused():
    good = ResidualStats(mean=torch.zeros(8, 8), std=torch.ones(8, 8))
    with pytest.raises(ValueError, match="16"):
        anomaly_map(torch.zeros(1, 16, 16), good)


def test_the_code_is_a_real_bottleneck_and_the_photo_comes_back_in_full_size():
    autoencoder = Autoencoder().eval()
    with torch.no_grad():
        code = autoencoder.encoder(torch.rand(2, 3, 256, 256))
        rebuilt = autoencoder(torch.rand(2, 3, 256, 256))
    assert code.shape == (2, 4, 8, 8)
    assert rebuilt.shape == (2, 3, 256, 256)
    assert rebuilt.min() >= 0
    assert rebuilt.max() <= 1
