import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from shared.errors import UnreadableImage
from shared.manifest import QualityLimits
from shared.verdicts import QualityReason
from worker.inspect.inputs import to_autoencoder_input, to_classifier_input
from worker.inspect.preprocess import Quality, measure_quality, prepare, quality_reasons, resize

LIMITS = QualityLimits(min_sharpness=20.0, min_brightness=40.0, max_brightness=220.0, min_side=192)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def flat(height: int, width: int, level: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [(900, 900), (128, 128), (256, 256), (255, 257), (130, 3000), (2048, 200), (513, 1027)],
)
def test_any_shape_becomes_256_by_256_and_keeps_its_light(height, width):
    picture = resize(noise(height, width))

    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    assert abs(float(picture.mean()) - float(noise(height, width).mean())) < 1
    assert (resize(flat(height, width, 137)) == 137).all()


def test_a_picture_of_the_right_size_is_left_alone():
    assert np.array_equal(resize(noise(256, 256)), noise(256, 256))


def averaged(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean light that falls into each of 256 x 256 equal tiles of a square picture."""
    side = len(picture)
    tiles = np.arange(257) * side / 256
    pixels = np.arange(side)
    covered = np.minimum(tiles[1:, None], pixels + 1) - np.maximum(tiles[:-1, None], pixels)
    shares = covered.clip(0) * 256 / side  # (256, side), each row sums to 1
    return np.einsum("ij,jkc,lk->ilc", shares, picture, shares, optimize=True)


@pytest.mark.parametrize("side", [257, 512, 901, 1024, 2048])
def test_shrinking_gives_each_pixel_the_mean_of_what_lies_under_it(side):
    picture = noise(side, side)

    assert np.abs(resize(picture) - averaged(picture)).max() <= 2


@pytest.mark.parametrize("side", [768, 900, 1000, 2448])
def test_halving_first_changes_hardly_anything_in_a_picture_of_something(side):
    with Image.fromarray(noise(side, side)) as original:
        picture = np.asarray(original.filter(ImageFilter.GaussianBlur(2)))

    assert np.abs(resize(picture) - averaged(picture)).mean() < 1


@pytest.mark.parametrize("side", [640, 900, 1200])
def test_a_hairline_leaves_the_same_trace_wherever_it_lies(side):
    traces = []
    for column in range(300, 312):
        picture = flat(side, side, 255)
        picture[:, column] = 0  # one pixel wide
        traces.append(float((255 - resize(picture)[128, :, 0].astype(float)).sum()))

    # Its share of the width, in the units of a fully black column of 256.
    wanted = 255 * 256 / side
    assert min(traces) > 0.97 * wanted
    assert max(traces) < 1.03 * wanted


def test_enlarging_adds_no_seams_to_an_edge():
    picture = flat(128, 128, 60)
    picture[:, 64:] = 190

    enlarged = resize(picture)

    assert enlarged.min() == 60
    assert enlarged.max() == 190
    assert (np.diff(enlarged[0, :, 0].astype(int)) >= 0).all()


def test_a_long_strip_is_averaged_along_and_interpolated_across():
    picture = np.zeros((128, 2560, 3), np.uint8)
    picture[:, ::2] = 200  # every second column: 100 on average, and nothing that bilinear sees

    assert np.unique(resize(picture)).tolist() == [100]


def test_the_classifier_sees_imagenet_standardised_channels_first():
    batch = np.zeros((2, 256, 256, 3), np.uint8)
    batch[0] = 255
    batch[1, 3, 4] = (51, 102, 204)  # a fifth, two fifths, four fifths of white

    tensor = to_classifier_input(batch)

    assert tensor.shape == (2, 3, 256, 256)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    dotted = [(0.2 - 0.485) / 0.229, (0.4 - 0.456) / 0.224, (0.8 - 0.406) / 0.225]
    torch.testing.assert_close(tensor[0, :, 200, 10], torch.tensor(white))
    torch.testing.assert_close(tensor[1, :, 3, 4], torch.tensor(dotted))


def test_the_autoencoder_sees_the_unit_interval_channels_first():
    batch = np.zeros((1, 256, 256, 3), np.uint8)
    batch[0, 3, 4] = (51, 102, 255)

    tensor = to_autoencoder_input(batch)

    assert tensor.shape == (1, 3, 256, 256)
    torch.testing.assert_close(tensor[0, :, 3, 4], torch.tensor([0.2, 0.4, 1.0]))
    assert tensor.sum() == pytest.approx(1.6)


def test_tensors_are_taken_as_arrays_are_and_neither_is_changed():
    batch = np.stack([noise(256, 256)])

    from_tensor = to_classifier_input(torch.from_numpy(batch.copy()))

    assert torch.equal(to_classifier_input(batch), from_tensor)
    assert np.array_equal(batch[0], noise(256, 256))


def test_sharpness_is_the_variance_of_the_laplacian():
    picture = flat(256, 256, 100)
    picture[100, 100] = 110
    # Of 65 536 values one is -40 and four are 10: mean 0, (1600 + 4 * 100) / 65 536.
    quality = measure_quality(picture)

    assert quality.sharpness == pytest.approx(2000 / 65536)
    assert quality.brightness == pytest.approx(100 + 10 / 65536)


def test_brightness_weighs_the_colours_as_the_eye_does():
    for colour, weight in (((255, 0, 0), 0.299), ((0, 255, 0), 0.587), ((0, 0, 255), 0.114)):
        picture = np.broadcast_to(np.array(colour, np.uint8), (256, 256, 3)).copy()
        assert measure_quality(picture).brightness == pytest.approx(255 * weight, abs=0.5)


def test_blurring_takes_sharpness_away():
    sharp = noise(256, 256)
    blurred = np.asarray(Image.fromarray(sharp).resize((64, 64)).resize((256, 256)))

    assert measure_quality(blurred).sharpness < 0.1 * measure_quality(sharp).sharpness


@pytest.mark.parametrize(
    ("sharpness", "brightness", "reasons"),
    [
        (50.0, 128.0, ()),
        (20.0, 40.0, ()),  # the limits themselves are good enough
        (20.0, 220.0, ()),
        (19.9, 128.0, (QualityReason.BLURRED,)),
        (50.0, 39.9, (QualityReason.DARK,)),
        (50.0, 220.1, (QualityReason.OVEREXPOSED,)),
        (0.0, 0.0, (QualityReason.BLURRED, QualityReason.DARK)),
        (0.0, 255.0, (QualityReason.BLURRED, QualityReason.OVEREXPOSED)),
    ],
)
def test_a_photo_outside_the_limits_is_too_poor_for_a_reason(sharpness, brightness, reasons):
    assert quality_reasons(Quality(sharpness, brightness, 192), LIMITS) == reasons


def test_a_photo_that_was_smaller_than_any_of_the_training_is_too_small():
    assert quality_reasons(Quality(50.0, 128.0, 191), LIMITS) == (QualityReason.TOO_SMALL,)


def test_a_file_is_decoded_shrunk_and_measured_in_one_go():
    picture = noise(600, 400)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")

    photo = prepare(file.getvalue())

    assert np.array_equal(photo.pixels, resize(picture))
    assert photo.quality == replace(measure_quality(photo.pixels), side=400)
    with pytest.raises(UnreadableImage):
        prepare(file.getvalue()[:-1000])
