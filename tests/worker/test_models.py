"""Model files by digest, with the bundled model as it is."""

import pytest
from sqlalchemy import select

from deploy.bootstrap import bootstrap
from shared.db import transaction
from shared.errors import DamagedBundle, StorageUnavailable
from shared.manifest import Manifest
from shared.settings import get_settings
from shared.storage import storage
from shared.storage.keys import artifact_key
from shared.tables import ModelVersion
from worker.models import Models


@pytest.fixture
def settings(services, tmp_path):
    bootstrap(get_settings())
    return get_settings().model_copy(update={"model_cache": tmp_path / "cache"})


@pytest.fixture
def version(settings):
    with transaction() as session:
        version = session.scalars(select(ModelVersion)).one()
        return version.id, Manifest.model_validate(version.manifest)


def test_the_active_version_is_loaded_and_warm_before_photos_come(settings, version):
    id_, manifest = version
    models = Models(settings)
    assert models.engine_names == []

    models.refresh()

    assert [name.split("-")[0] for name in models.engine_names] == ["openvino"]
    assert models.get(id_).product.digest == manifest.digest
    assert models.get(id_) is models.get(id_)


def test_a_restart_fetches_nothing(settings, version, monkeypatch):
    Models(settings).get(version[0])

    def away(*_):
        raise StorageUnavailable("away")

    monkeypatch.setattr(type(storage()), "stream", away)

    assert Models(settings).get(version[0]).product.digest == version[1].digest


def test_a_cache_that_rotted_is_fetched_again(settings, version):
    Models(settings).get(version[0])
    for file in settings.model_cache.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    assert Models(settings).get(version[0]).product.digest == version[1].digest


def test_files_that_are_gone_make_the_version_unusable_and_are_named(settings, version):
    key = artifact_key(version[1].model.sha256)
    body = storage().get(key)
    storage().delete(key)
    try:
        with pytest.raises(DamagedBundle, match=r"model\.safetensors") as refused:
            Models(settings).get(version[0])
        assert refused.value.code == "model_unavailable"
        # One unusable version must not keep the worker from serving the others.
        Models(settings).refresh()
    finally:
        storage().put(key, body, "application/octet-stream")


def test_a_file_that_was_changed_in_storage_is_refused_by_its_digest(settings, version):
    key = artifact_key(version[1].model.sha256)
    body = storage().get(key)
    storage().put(key, body[:-1] + b"?", "application/octet-stream")
    try:
        with pytest.raises(DamagedBundle):
            Models(settings).get(version[0])
    finally:
        storage().put(key, body, "application/octet-stream")


def test_preparing_an_installation_twice_changes_nothing(settings, version):
    bootstrap(get_settings())

    with transaction() as session:
        assert [row.id for row in session.scalars(select(ModelVersion))] == [version[0]]


def test_a_version_that_cannot_be_loaded_is_not_fetched_again_at_once(
    settings, version, monkeypatch
):
    """Each round would take 14 MB from storage, and the backbone from all who read it."""
    models = Models(settings)
    id_, manifest = version
    storage().delete(artifact_key(manifest.model.sha256))
    with pytest.raises(DamagedBundle):
        models.get(id_)
    backbones = list((settings.model_cache / "backbones").iterdir())
    assert len(backbones) == 1
    inode = backbones[0].stat().st_ino

    fetched = []
    stream = type(storage()).stream
    monkeypatch.setattr(
        type(storage()), "stream", lambda store, key: fetched.append(key) or stream(store, key)
    )
    for _ in range(3):
        models.refresh()
        with pytest.raises(DamagedBundle, match=manifest.model.file):
            models.get(id_)
    assert fetched == []
    assert backbones[0].stat().st_ino == inode

    monkeypatch.setattr("worker.models.time.monotonic", lambda: 1e9)
    with pytest.raises(DamagedBundle):
        models.get(id_)
    assert fetched == [artifact_key(manifest.model.sha256)]


def test_thresholds_changed_in_the_cache_are_those_of_the_version_again(settings, version):
    id_, manifest = version
    Models(settings).get(id_)
    (cached,) = settings.model_cache.rglob("manifest.json")
    higher = manifest.thresholds.model_copy(update={"defect_probability": 0.99})
    cached.write_bytes(manifest.model_copy(update={"thresholds": higher}).to_json())

    loaded = Models(settings).get(id_)

    assert loaded.product.digest == manifest.digest
    assert loaded.product.manifest.thresholds == manifest.thresholds
