import pytest
import torch

from shared.errors import DamagedBundle
from worker.inspect.backbone import (
    build_backbone,
    digest_of,
    load_backbone,
    pool,
    save_backbone,
    save_safetensors,
)


def test_maps_have_1024_channels_of_8_by_8_cells_and_negative_values(backbone_file):
    with torch.no_grad():
        maps = load_backbone(backbone_file)(torch.randn(1, 3, 256, 256))
    assert maps.shape == (1, 1024, 8, 8)
    assert maps.min() < 0  # taken before the ReLU


def test_pooling_cuts_negative_cells_before_it_averages():
    maps = torch.tensor([[[[4.0, -100.0], [0.0, 8.0]]]])
    assert pool(maps).tolist() == [[3.0]]


def test_weights_survive_the_file_up_to_half_precision_and_batch_norms_exactly(tmp_path):
    backbone = build_backbone()
    backbone.norm0.running_var.fill_(3e-9)  # far below what half precision can hold
    save_backbone(backbone.state_dict(), tmp_path / "b.safetensors", provenance="test")
    loaded = load_backbone(tmp_path / "b.safetensors")
    assert torch.equal(loaded.norm0.running_var, backbone.norm0.running_var)
    assert torch.equal(loaded.conv0.weight, backbone.conv0.weight.half().float())
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_backbone_with_another_digest_is_refused_by_name(backbone_file, tmp_path):
    changed = tmp_path / "changed.safetensors"
    data = bytearray(backbone_file.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    with pytest.raises(DamagedBundle, match=r"changed\.safetensors"):
        load_backbone(changed, sha256=digest_of(backbone_file))


def test_weights_of_something_else_are_refused(tmp_path):
    save_safetensors({"conv0.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(DamagedBundle, match="DenseNet-121"):
        load_backbone(tmp_path / "other.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(DamagedBundle, match=r"text\.safetensors"):
        load_backbone(tmp_path / "text.safetensors")
