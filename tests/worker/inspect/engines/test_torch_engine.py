import numpy as np
import torch

from worker.inspect.backbone import digest_of, load_backbone
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.inputs import to_classifier_input


def test_its_maps_are_those_of_the_plain_network_in_order(photos, backbone_file):
    pixels = np.stack([photo.pixels for photo in photos])
    with torch.no_grad():
        expected = load_backbone(backbone_file)(to_classifier_input(pixels))
    maps = TorchEngine(backbone_file, sha256=digest_of(backbone_file)).features(pixels)
    assert maps.dtype == torch.float32
    assert maps.is_contiguous()
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-4)


def test_batches_larger_than_a_pass_come_back_whole(photos, backbone_file, monkeypatch):
    monkeypatch.setattr("worker.inspect.engines.torch_engine._PHOTOS_PER_PASS", 4)
    pixels = np.stack([photo.pixels for photo in photos])
    engine = TorchEngine(backbone_file, sha256=digest_of(backbone_file))
    maps = engine.features(pixels)
    assert maps.shape == (10, 1024, 8, 8)
    torch.testing.assert_close(maps[9:], engine.features(pixels[9:]), rtol=1e-4, atol=1e-4)
