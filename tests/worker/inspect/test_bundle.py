import json
from dataclasses import fields

import pytest
import torch

from shared.errors import Conflict, DamagedBundle
from worker.inspect.bundle import load_bundle, read_manifest


@pytest.fixture
def folder(tmp_path, write_test_bundle):
    write_test_bundle(tmp_path / "bottle", seed=4)
    return tmp_path / "bottle"


def test_a_written_bundle_is_read_back_as_it_was(tmp_path, write_test_bundle, backbone_file):
    manifest = write_test_bundle(tmp_path / "bottle", seed=4)
    model = load_bundle(tmp_path / "bottle")
    assert model.manifest == manifest
    assert model.digest == manifest.digest
    assert model.backbone.read_bytes() == backbone_file.read_bytes()
    expected = write_test_bundle.parts(4)
    for part in ("good_features", "head", "good_residuals", "good_evidence", "domain"):
        read, written = getattr(model.parts, part), getattr(expected, part)
        for field in fields(written):
            assert torch.equal(getattr(read, field.name), getattr(written, field.name))


def test_the_stored_autoencoder_rebuilds_exactly_what_the_calibrated_one_did(folder):
    torch.manual_seed(4)
    from worker.inspect.autoencoder import Autoencoder
    from worker.inspect.bundle import rounded

    calibrated = rounded(Autoencoder())
    photo = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        assert torch.equal(load_bundle(folder).parts.autoencoder(photo), calibrated(photo))


@pytest.mark.parametrize("file", ["model.safetensors", "backbone-random.safetensors"])
def test_one_changed_bit_is_refused_and_the_file_named(folder, file):
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(DamagedBundle, match=file):
        load_bundle(folder)


@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(DamagedBundle, match=file):
        load_bundle(folder)


def test_a_manifest_that_names_a_path_outside_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["model"]["file"] = "../model.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedBundle, match=r"model\.file"):
        load_bundle(folder)


def test_another_version_of_preprocessing_is_refused_with_its_own_code(folder):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["preprocess"] = "0"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedBundle, match="preprocess version 0") as raised:
        load_bundle(folder)
    assert raised.value.code == "incompatible_bundle"


def test_bundles_may_share_a_backbone_that_lies_beside_them(folder):
    backbone = folder / "backbone-random.safetensors"
    backbone.rename(folder.parent / backbone.name)
    assert load_bundle(folder).backbone == folder.parent / backbone.name


def test_without_its_backbone_a_bundle_is_refused(folder):
    (folder / "backbone-random.safetensors").unlink()
    with pytest.raises(DamagedBundle, match=r"backbone-random\.safetensors"):
        load_bundle(folder)


def test_a_backbone_may_be_passed_and_is_checked(folder, backbone_file, tmp_path):
    (folder / "backbone-random.safetensors").unlink()
    assert load_bundle(folder, backbone=backbone_file).backbone == backbone_file
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"something else")
    with pytest.raises(DamagedBundle, match=r"other\.safetensors"):
        load_bundle(folder, backbone=other)


def test_writing_again_replaces_the_bundle_and_leaves_nothing_behind(folder, write_test_bundle):
    second = write_test_bundle(folder, seed=5)
    assert read_manifest(folder) == second
    load_bundle(folder)
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["bottle"]


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path, write_test_bundle):
    precious = tmp_path / "photos" / "holiday.txt"
    precious.parent.mkdir()
    precious.write_text("keep me")
    with pytest.raises(Conflict, match="photos"):
        write_test_bundle(tmp_path / "photos")
    assert precious.read_text() == "keep me"
