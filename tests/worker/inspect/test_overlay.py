import cv2
import numpy as np

from worker.inspect.overlay import draw_overlay, scale


def decoded(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)


def grey(value):
    return np.full((256, 256, 3), value, np.uint8)


def test_a_cold_map_tints_the_whole_photo_blue_at_45_percent():
    picture = decoded(draw_overlay(grey(100), np.zeros((8, 8), np.float32)))
    # JET at 0 is (0, 0, 128): 0.55 * 100 = 55 in red and green, 55 + 0.45 * 128 = 112.6 in blue.
    assert picture.shape == (256, 256, 3)
    assert np.abs(picture - [55, 55, 113]).max() <= 3


def test_hot_cells_are_red_and_lie_where_the_map_says():
    heat = np.zeros((8, 8), np.float32)
    heat[1:3, 5:7] = 1.0
    picture = decoded(draw_overlay(grey(100), heat))
    # In the middle of the four cells; JET at 1 is (128, 0, 0).
    assert np.abs(picture[64, 192] - [113, 55, 55]).max() <= 6
    assert np.abs(picture[208, 48] - [55, 55, 113]).max() <= 3


def test_the_scale_is_fixed_and_what_lies_outside_is_clipped():
    values = np.array([-1.0, 2.0, 4.0, 6.0, 99.0], np.float32)
    np.testing.assert_allclose(scale(values, 2.0, 6.0), [0.0, 0.0, 0.5, 1.0, 1.0])


def test_a_map_in_full_size_is_drawn_pixel_by_pixel():
    heat = np.zeros((256, 256), np.float32)
    heat[:128] = 1.0
    picture = decoded(draw_overlay(grey(0), heat))
    assert picture[:120, :, 0].mean() > 50
    assert picture[136:, :, 0].mean() < 5
