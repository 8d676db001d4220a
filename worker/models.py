"""The models that this worker holds: fetched by digest, checked, loaded, warmed.

A version is loaded beside the ones in use, so photos of other versions are
judged meanwhile. Files stay in a cache folder, so a restart fetches nothing.
"""

import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from shared import products
from shared.db import transaction
from shared.errors import (
    DamagedBundle,
    DefectScopeError,
    NotFound,
    StorageUnavailable,
    Unavailable,
)
from shared.manifest import Artifact, Manifest
from shared.settings import Settings
from shared.storage import storage
from shared.storage.keys import artifact_key
from shared.tables import ModelVersion
from worker.inspect.backbone import digest_of
from worker.inspect.bundle import MANIFEST, ProductModel, load_bundle
from worker.inspect.engines.choice import Engines
from worker.inspect.pipeline import Inspector

log = structlog.stdlib.get_logger()

_MOST_LOADED = 64
"""Versions in memory, some 10 MB each; the least recently used one goes first."""
_FIRST_PAUSE_SECONDS = 10.0
_LONGEST_PAUSE_SECONDS = 60.0
"""Before a version that could not be loaded is fetched again: whoever has published it anew does
not wait for long."""
_IN_VAIN = frozenset({"incompatible_bundle", "model_unavailable"})
"""Errors that fetching the same files again does not mend."""


@dataclass(frozen=True)
class LoadedModel:
    product: ProductModel
    inspector: Inspector
    """Its engine is shared by all products that can share it."""


@dataclass(frozen=True)
class _Failure:
    """A version that could not be loaded: not worth another try before some moment."""

    error: DefectScopeError
    pause_seconds: float
    until: float
    """By the monotonic clock."""


class Models:
    """Safe to share between the slots of a worker."""

    def __init__(self, settings: Settings) -> None:
        self._engines = Engines(settings.engine)
        self._cache = settings.model_cache
        # Two locks: photos of a loaded version must not wait while another one is fetched.
        self._loading = threading.Lock()
        self._holding = threading.Lock()
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._failures: dict[str, _Failure] = {}
        self._unusable: dict[str, str] = {}
        """Shadow versions that cannot be loaded, and the code of the error: they are not tried
        again while they stay shadows.
        """

    @property
    def engine_names(self) -> list[str]:
        """What results call the engines in use; empty until a model is loaded."""
        with self._holding:
            return sorted({loaded.inspector.engine.name for loaded in self._loaded.values()})

    @property
    def batch_size(self) -> int:
        """The most that an engine in use wants at once; 1 until a model is loaded."""
        with self._holding:
            return max(
                (one.inspector.engine.batch_size for one in self._loaded.values()), default=1
            )

    def get(self, version_id: str) -> LoadedModel:
        """The model of this version, loaded now if need be.

        Raises DamagedBundle where its files are missing or changed, and Unavailable
        where database or storage is away.
        """
        if loaded := self._find(version_id):
            return loaded
        with self._loading:
            # Another slot may have loaded it while this one waited.
            if loaded := self._find(version_id):
                return loaded
            with transaction() as session:
                version = products.get_version(session, version_id)
            loaded = self._load_unless_vain(version)
            with self._holding:
                self._loaded[version_id] = loaded
                while len(self._loaded) > _MOST_LOADED:
                    self._loaded.popitem(last=False)
        return loaded

    def get_shadow(self, version_id: str) -> LoadedModel:
        """The model of this shadow version; never waits for one to be loaded.

        Raises Unavailable while it is not loaded, and DamagedBundle where it cannot be.
        """
        if loaded := self._find(version_id):
            return loaded
        if code := self._unusable.get(version_id):
            raise DamagedBundle(
                "This shadow version cannot be loaded; the log says why.", code=code
            )
        raise Unavailable("This shadow version is still being loaded.", code="shadow_not_loaded")

    def look(self) -> None:
        """One look for versions that were activated, or put into shadow, since."""
        self.refresh()
        self.refresh_shadows()

    def refresh(self) -> None:
        """Load the active versions that are not loaded yet, before photos ask for them."""
        with transaction() as session:
            active = [version.id for version in products.active_versions(session)]
        for version_id in active[:_MOST_LOADED]:  # more would push each other out
            try:
                self.get(version_id)
            except Unavailable:
                raise
            except Exception as error:
                log.error("version_unusable", version=version_id, error=repr(error))

    def refresh_shadows(self) -> None:
        """Load the shadow versions that are not loaded yet; photos do not wait for them."""
        with transaction() as session:
            active = products.active_versions(session)
            shadows = [version.id for version in products.shadow_versions(session)]
        self._unusable = {
            version_id: code for version_id, code in self._unusable.items() if version_id in shadows
        }
        # Beyond that they would push the active versions out, round after round.
        for version_id in shadows[: max(0, _MOST_LOADED - len(active))]:
            if version_id in self._unusable:
                continue
            try:
                self.get(version_id)
            except Unavailable:
                raise
            except Exception as error:
                self._unusable[version_id] = (
                    error.code if isinstance(error, DefectScopeError) else "model_unusable"
                )
                log.error("shadow_unusable", version=version_id, error=repr(error))

    def _find(self, version_id: str) -> LoadedModel | None:
        with self._holding:
            if version_id in self._loaded:
                self._loaded.move_to_end(version_id)
            return self._loaded.get(version_id)

    def _load_unless_vain(self, version: ModelVersion) -> LoadedModel:
        """Not more often than is worth it, where it failed before: each try fetches all files."""
        failure = self._failures.get(version.id)
        if failure is not None and time.monotonic() < failure.until:
            raise failure.error.with_traceback(None)  # or it would grow with every raise
        try:
            loaded = self._load(version)
        except DamagedBundle as error:
            pause = 2 * failure.pause_seconds if failure else _FIRST_PAUSE_SECONDS
            pause = min(pause, _LONGEST_PAUSE_SECONDS)
            self._failures[version.id] = _Failure(error, pause, time.monotonic() + pause)
            raise
        self._failures.pop(version.id, None)
        return loaded

    def _load(self, version: ModelVersion) -> LoadedModel:
        manifest = Manifest.model_validate(version.manifest)
        try:
            loaded = self._open(manifest)
        except DamagedBundle as error:
            if error.code in _IN_VAIN:
                raise
            # The cache may have rotted; the storage is asked once before we give up.
            shutil.rmtree(self._folder(manifest), ignore_errors=True)
            backbone = self._backbone(manifest)
            # Other versions, and other workers, may be reading it at this moment.
            if backbone.exists() and digest_of(backbone) != manifest.backbone.sha256:
                backbone.unlink(missing_ok=True)
            loaded = self._open(manifest)
        log.info("model_loaded", product=manifest.product, version=version.version)
        return loaded

    def _open(self, manifest: Manifest) -> LoadedModel:
        model = self._read(manifest)
        if model.digest != manifest.digest:
            raise DamagedBundle("The manifest in the model cache is not that of the version.")
        return LoadedModel(model, Inspector(self._engines.choose(model)))

    def _read(self, manifest: Manifest) -> ProductModel:
        folder, backbone = self._folder(manifest), self._backbone(manifest)
        if not backbone.exists():
            _fetch(manifest.backbone, backbone)
        if not (folder / MANIFEST).exists():
            for artifact in manifest.own_files:
                _fetch(artifact, folder / artifact.file)
            # Last, so that a folder with a manifest is whole.
            _write(folder / MANIFEST, iter([manifest.to_json()]))
        return load_bundle(folder, backbone=backbone)

    def _folder(self, manifest: Manifest) -> Path:
        return self._cache / "bundles" / manifest.digest.removeprefix("sha256:")

    def _backbone(self, manifest: Manifest) -> Path:
        sha256 = manifest.backbone.sha256.removeprefix("sha256:")
        return self._cache / "backbones" / f"{sha256}.safetensors"


def _fetch(artifact: Artifact, target: Path) -> None:
    """Copy a model file out of storage. Its digest is checked when it is loaded."""
    try:
        _write(target, storage().stream(artifact_key(artifact.sha256)))
    except NotFound as error:
        storage().check()  # a store that is not itself is no reason to give a version up
        raise DamagedBundle(
            f"{artifact.file} ({artifact.sha256}) is not in storage; publish the bundle again.",
            code="model_unavailable",
        ) from error


def _write(target: Path, pieces: Iterator[bytes]) -> None:
    """Whole or not at all: several workers may share the cache. Raises StorageUnavailable."""
    try:
        _write_file(target, pieces)
    except OSError as error:
        raise StorageUnavailable(f"The model cache cannot be written: {error}.") from error


def _write_file(target: Path, pieces: Iterator[bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".incoming-", delete=False) as file:
        try:
            for piece in pieces:
                file.write(piece)
            file.close()
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
