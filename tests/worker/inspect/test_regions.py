import numpy as np
import pytest

from worker.inspect.regions import outline


def heat(*boxes, side=256):
    """A map with boxes (x, y, width, height, value) on 0."""
    made = np.zeros((side, side), np.float32)
    for x, y, width, height, value in boxes:
        made[y : y + height, x : x + width] = value
    return made


def test_a_square_has_its_four_corners():
    (square,) = outline(heat((64, 32, 65, 33, 9.0)), 5.0)

    # Centres of the corner pixels: (64, 32), (128, 64).
    assert sorted(map(tuple, square)) == [
        pytest.approx((64.5 / 256, 32.5 / 256), abs=1e-4),
        pytest.approx((64.5 / 256, 64.5 / 256), abs=1e-4),
        pytest.approx((128.5 / 256, 32.5 / 256), abs=1e-4),
        pytest.approx((128.5 / 256, 64.5 / 256), abs=1e-4),
    ]


def test_the_strangest_region_comes_first_and_what_is_below_is_left_out():
    found = outline(heat((10, 10, 40, 40, 6.0), (200, 200, 5, 5, 20.0), (100, 10, 9, 9, 4.9)), 5.0)

    assert len(found) == 2
    assert all(x > 0.7 for x, _ in found[0])


def test_nothing_strange_has_no_outline():
    assert outline(heat((0, 0, 256, 256, 4.9)), 5.0) == []


@pytest.mark.parametrize("box", [(7, 9, 1, 1), (7, 9, 30, 1), (255, 255, 1, 1)])
def test_a_speck_or_a_hairline_is_still_a_polygon_within_the_photo(box):
    (polygon,) = outline(heat((*box, 9.0)), 5.0)

    assert len(polygon) >= 3
    assert all(0 <= share <= 1 for point in polygon for share in point)


def test_a_map_full_of_noise_gives_few_polygons_of_few_points():
    noise = np.random.default_rng(0).normal(0, 5, (256, 256)).astype(np.float32)

    found = outline(noise, 5.0)

    assert len(found) == 5
    assert all(3 <= len(polygon) <= 100 for polygon in found)
