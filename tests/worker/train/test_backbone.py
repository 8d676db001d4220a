import numpy as np
import pytest
import torch

from worker.inspect.backbone import build_backbone, digest_of, load_backbone
from worker.inspect.inputs import to_classifier_input
from worker.train.backbone import calibrate_batch_norms, render_mix, write_backbone


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone()


@pytest.fixture(scope="module")
def mix():
    return render_mix(0, 6)


def test_after_calibration_every_channel_is_standardised_on_the_pictures(backbone, mix):
    calibrate_batch_norms(backbone, mix)
    with torch.no_grad():
        maps = backbone(to_classifier_input(mix))  # (6, 1024, 8, 8)
    assert not backbone.training
    assert maps.mean(dim=(0, 2, 3)).abs().max() < 0.02
    torch.testing.assert_close(
        maps.std(dim=(0, 2, 3)).median(), torch.tensor(1.0), rtol=0.02, atol=0
    )


def test_the_mix_is_reproducible_and_varied(mix):
    assert mix.shape == (6, 256, 256, 3)
    assert (render_mix(0, 6) == mix).all()
    assert len({picture.tobytes() for picture in mix}) == 6
    assert np.ptp([picture.mean() for picture in mix]) > 5


def test_the_file_is_named_by_its_digest(backbone, tmp_path):
    path = write_backbone(backbone, tmp_path, provenance="test")
    assert path.name == f"backbone-{digest_of(path)[7:19]}.safetensors"
    load_backbone(path)
