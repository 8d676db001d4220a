import numpy as np
import pytest
import torch

from worker.inspect import inputs
from worker.inspect.inputs import IMAGENET_MEAN, IMAGENET_STD, to_classifier_input


def test_a_photo_of_the_mean_is_zero_and_one_spread_brighter_is_one():
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    levels = np.rint(255 * np.stack([mean, mean + std])).astype(np.uint8)
    photos = np.broadcast_to(levels[:, None, None], (2, 256, 256, 3))
    found = to_classifier_input(photos.copy())
    assert found.shape == (2, 3, 256, 256)
    torch.testing.assert_close(found[0], torch.zeros(3, 256, 256), atol=0.01, rtol=0)
    torch.testing.assert_close(found[1], torch.ones(3, 256, 256), atol=0.02, rtol=0)


def test_after_the_first_batch_nothing_is_copied_to_the_device(monkeypatch):
    """The capture of a CUDA graph refuses it."""
    pixels = torch.zeros((1, 256, 256, 3), dtype=torch.uint8)
    first = to_classifier_input(pixels)

    def refuse(*_, **__):
        raise RuntimeError("cannot copy during capture")

    monkeypatch.setattr(inputs.torch, "tensor", refuse)
    assert torch.equal(to_classifier_input(pixels), first)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_photos_stay_as_they_are(kind):
    photos = kind(np.full((1, 256, 256, 3), 7, np.uint8))
    to_classifier_input(photos)
    assert (photos == 7).all()
