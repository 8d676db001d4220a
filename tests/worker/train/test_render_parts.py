import cv2
import numpy as np
import pytest

from worker.train.render_parts import _KINDS, render_parts


def test_a_picture_has_the_size_that_was_asked_for():
    for size in (64, 256):
        picture = render_parts(np.random.default_rng(0), size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8


def test_the_same_seed_gives_the_same_picture():
    for seed in range(20):
        first, again = (render_parts(np.random.default_rng(seed), 96) for _ in range(2))
        assert first.tobytes() == again.tobytes()


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_picture_can_be_drawn_with_any_seed(kind):
    for seed in range(12):
        picture = kind(np.random.default_rng(seed), 128)
        assert picture.shape == (128, 128, 3)
        assert np.isfinite(picture).all()


def test_pictures_differ_widely_in_brightness_colour_and_frequency():
    pictures = [render_parts(np.random.default_rng(seed), 128) for seed in range(120)]

    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) for picture in pictures]
    brightness = [image.mean() for image in grey]
    assert np.percentile(brightness, 5) < 50
    assert np.percentile(brightness, 95) > 180
    sharpness = [cv2.Laplacian(image, cv2.CV_32F).var() for image in grey]
    assert np.percentile(sharpness, 90) > 50 * np.percentile(sharpness, 10)
    tints = np.stack([picture.reshape(-1, 3).mean(0) for picture in pictures])
    assert {int(np.argmax(tint)) for tint in tints} == {0, 1, 2}
