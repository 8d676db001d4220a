from collections import OrderedDict
from urllib.error import URLError

import pytest
import torch

from shared.errors import InvalidInput, Unavailable
from worker.inspect.backbone import load_backbone, save_safetensors
from worker.inspect.torchvision_import import DenseNet121_Weights, densenet121
from worker.train.sources import bundled_backbone, obtain_backbone


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    return densenet121(weights=None)


def old_names(network):
    """As in the file that torchvision has offered since 2017: `norm.1` for `norm1`."""
    return OrderedDict(
        (
            name.replace("norm1", "norm.1")
            .replace("norm2", "norm.2")
            .replace("conv1", "conv.1")
            .replace("conv2", "conv.2")
            if ".denselayer" in name
            else name,
            weight,
        )
        for name, weight in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )


@pytest.mark.parametrize("naming", ["new", "old", "features only", "wrapped", "safetensors"])
def test_a_file_in_torchvisions_format_is_converted(tmp_path, network, naming):
    file = tmp_path / "densenet121.pth"
    if naming == "new":
        torch.save(network.state_dict(), file)
    elif naming == "old":
        torch.save(old_names(network), file)
    elif naming == "features only":
        torch.save(network.features.state_dict(), file)
    elif naming == "wrapped":
        torch.save({"state_dict": network.state_dict(), "epoch": 3}, file)
    else:
        file = tmp_path / "densenet121.safetensors"
        save_safetensors(network.state_dict(), file)
    out = tmp_path / "out"
    out.mkdir()

    backbone = obtain_backbone(str(file), out)

    loaded = load_backbone(backbone.path, sha256=backbone.sha256)
    weight = network.features.denseblock3.denselayer7.conv2.weight
    assert torch.equal(loaded.denseblock3.denselayer7.conv2.weight, weight.half().float())
    assert backbone.path.name == f"backbone-{backbone.sha256[7:19]}.safetensors"
    assert file.name in backbone.provenance


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(InvalidInput, match=r"evil\.pth"):
        obtain_backbone(str(tmp_path / "evil.pth"), tmp_path)
    assert not (tmp_path / "was_here").exists()


def test_weights_of_another_network_are_refused_naming_what_is_missing(tmp_path):
    torch.save({"layer1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(InvalidInput, match=r"conv0\.weight is missing"):
        obtain_backbone(str(tmp_path / "resnet.pth"), tmp_path)


def test_a_missing_file_is_refused_with_the_choices(tmp_path):
    with pytest.raises(InvalidInput, match="`bundled`") as raised:
        obtain_backbone(str(tmp_path / "nothing.pth"), tmp_path)
    assert raised.value.field == "backbone"


def test_torchvisions_weights_come_through_its_own_download(tmp_path, network, monkeypatch):
    asked = []

    def downloaded(self, **options):
        asked.append((self, options["check_hash"]))
        return old_names(network)

    monkeypatch.setattr(DenseNet121_Weights, "get_state_dict", downloaded)
    backbone = obtain_backbone("imagenet", tmp_path)
    assert asked == [(DenseNet121_Weights.IMAGENET1K_V1, True)]
    assert "IMAGENET1K_V1" in backbone.provenance
    load_backbone(backbone.path, sha256=backbone.sha256)


def test_without_a_network_the_message_says_how_to_go_on(tmp_path, monkeypatch):
    def fails(self, **options):
        raise URLError("no route to host")

    monkeypatch.setattr(DenseNet121_Weights, "get_state_dict", fails)
    with pytest.raises(Unavailable, match="path of a downloaded file"):
        obtain_backbone("imagenet", tmp_path)


def test_the_bundled_backbone_needs_no_network_and_says_where_it_comes_from():
    backbone = bundled_backbone()
    load_backbone(backbone.path, sha256=backbone.sha256)
    assert "rendered by this project" in backbone.provenance
