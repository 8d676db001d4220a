import numpy as np
import pytest
import torch

from worker.inspect.backbone import build_backbone, digest_of, load_backbone
from worker.inspect.preprocess import to_classifier_input
from worker.train.backbone import (
    INPUTS,
    calibrate_batch_norms,
    randomise,
    render_mix,
    write_backbone,
)


@pytest.fixture(scope="module")
def backbone():
    network = build_backbone()
    randomise(network, torch.Generator().manual_seed(0))
    return network


@pytest.fixture(scope="module")
def mix():
    return render_mix(0, 6)


def test_after_calibration_every_channel_is_standardised_on_the_pictures(backbone, mix):
    calibrate_batch_norms(backbone, mix)
    with torch.no_grad():
        maps = backbone(to_classifier_input(mix))  # (6, 1024, 8, 8), norm5 has no random shift
    assert not backbone.training
    assert maps.mean(dim=(0, 2, 3)).abs().max() < 0.02
    torch.testing.assert_close(
        maps.std(dim=(0, 2, 3)).median(), torch.tensor(1.0), rtol=0.02, atol=0
    )


def test_each_filter_after_the_first_layer_reads_four_channels(backbone):
    weight = backbone.denseblock3.denselayer5.conv1.weight
    reads = (weight != 0).sum(dim=1).flatten()
    assert reads.tolist() == [INPUTS] * len(weight)


def test_the_same_seed_gives_the_same_random_weights():
    first, again, other = (build_backbone() for _ in range(3))
    for network, seed in ((first, 3), (again, 3), (other, 4)):
        randomise(network, torch.Generator().manual_seed(seed))
    name = "denseblock2.denselayer3.conv2.weight"
    weights = [network.state_dict()[name] for network in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_mix_is_reproducible_and_varied(mix):
    assert mix.shape == (6, 256, 256, 3)
    assert (render_mix(0, 6) == mix).all()
    assert len({picture.tobytes() for picture in mix}) == 6
    assert np.ptp([picture.mean() for picture in mix]) > 5


def test_the_file_is_named_by_its_digest(backbone, tmp_path):
    path = write_backbone(backbone, tmp_path, provenance="test")
    assert path.name == f"backbone-{digest_of(path)[7:19]}.safetensors"
    load_backbone(path)
