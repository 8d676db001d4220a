"""Bundles on disk: `manifest.json` and the safetensors files that it names by digest.

Nothing in a bundle is executed (no pickle), and nothing is used before its
digest has been checked.
"""

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import Conflict, DamagedBundle
from shared.manifest import Artifact, Manifest
from worker.inspect import preprocess
from worker.inspect.autoencoder import Autoencoder, ResidualStats
from worker.inspect.backbone import digest_of, freeze, save_safetensors, verify
from worker.inspect.domain import Domain
from worker.inspect.good_features import GoodFeatures
from worker.inspect.gradcam import GoodEvidence
from worker.inspect.head import Head

MANIFEST = "manifest.json"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class Parts:
    """What training makes for one product, beside the numbers of the manifest."""

    good_features: GoodFeatures
    head: Head
    autoencoder: Autoencoder
    good_residuals: ResidualStats
    good_evidence: GoodEvidence
    domain: Domain

    def to(self, device: torch.device) -> "Parts":
        """A copy on this device."""

        def moved(value: _Tensors) -> _Tensors:
            return replace(
                value, **{f.name: getattr(value, f.name).to(device) for f in fields(value)}
            )

        return Parts(
            moved(self.good_features),
            moved(self.head),
            deepcopy(self.autoencoder).to(device),
            moved(self.good_residuals),
            moved(self.good_evidence),
            moved(self.domain),
        )


_Tensors = TypeVar("_Tensors", GoodFeatures, Head, ResidualStats, GoodEvidence, Domain)


@dataclass(frozen=True)
class ProductModel:
    """A bundle in memory, ready to judge with an engine that holds its backbone.

    The digests of all files are checked.
    """

    manifest: Manifest
    digest: str
    parts: Parts
    backbone: Path
    reference: Path
    """See `reference.py`."""
    quantised: Path | None
    """The backbone in int8, see `quantised.py`; None where that did not agree."""


def load_bundle(folder: Path, *, backbone: Path | None = None) -> ProductModel:
    """Read a bundle and check every digest.

    The backbone is `backbone` where given, else the file of the manifest's name
    in the folder, else beside it, where bundles that share one keep it.
    Raises DamagedBundle naming the file that is missing, unreadable or changed,
    and with code `incompatible_bundle` for another version of preprocessing.
    """
    manifest = read_manifest(folder)
    if manifest.preprocess != preprocess.VERSION:
        raise DamagedBundle(
            f"{folder / MANIFEST} was trained with preprocess version {manifest.preprocess}, "
            f"this release has {preprocess.VERSION}: train the product again",
            code="incompatible_bundle",
        )
    backbone = backbone or find_backbone(folder, manifest)
    verify(backbone, manifest.backbone.sha256)
    for artifact in manifest.own_files:
        verify(folder / artifact.file, artifact.sha256)
    return ProductModel(
        manifest,
        manifest.digest,
        _read_parts(folder / manifest.model.file),
        backbone,
        folder / manifest.reference.file,
        folder / manifest.quantised.file if manifest.quantised else None,
    )


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone. Raises DamagedBundle if it is missing or not one."""
    file = folder / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise DamagedBundle(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DamagedBundle(f"{file} is not a manifest: {where}: {first['msg']}") from error


def find_backbone(folder: Path, manifest: Manifest) -> Path:
    """The backbone's file, in the folder or beside it. Raises DamagedBundle if in neither."""
    for place in (folder, folder.resolve().parent):
        if (file := place / manifest.backbone.file).is_file():
            return file
    raise DamagedBundle(f"{manifest.backbone.file} is neither in {folder} nor beside it")


def artifact_of(file: Path) -> Artifact:
    """A file as a manifest names it."""
    return Artifact(file=file.name, sha256=digest_of(file), bytes=file.stat().st_size)


def write_parts(parts: Parts, file: Path) -> None:
    """Write one product's tensors. The autoencoder is stored as fp16: round it first (`rounded`),
    so that calibration sees what serving will see.
    """
    save_safetensors(_to_tensors(parts), file)


def rounded(autoencoder: Autoencoder) -> Autoencoder:
    """The same autoencoder with its weights as fp16 can hold them, frozen."""
    with torch.no_grad():
        for weight in autoencoder.parameters():
            weight.copy_(weight.half().float())
    freeze(autoencoder)
    return autoencoder


def check_replaceable(folder: Path) -> None:
    """Raise Conflict if a bundle cannot be written to this folder without losing something."""
    if folder.is_file() or (
        folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file()
    ):
        raise Conflict(f"{folder} holds something else than a bundle: name a new or empty folder")


def write_bundle(
    folder: Path, manifest: Manifest, *, files: Iterable[Path], backbone: Path | None = None
) -> None:
    """Put a bundle together from finished files of the manifest's names, whole or not at all.

    Without `backbone`, its file is expected beside the folder. A bundle that is
    there already is replaced; a folder that is anything else raises Conflict.
    """
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        temporary.chmod(0o755)
        for file in files:
            shutil.copyfile(file, temporary / file.name)
        if backbone is not None:
            shutil.copyfile(backbone, temporary / manifest.backbone.file)
        (temporary / MANIFEST).write_bytes(manifest.to_json())
        if folder.exists():
            replaced = temporary.with_name(temporary.name + ".old")
            folder.rename(replaced)
            try:
                temporary.rename(folder)
            except BaseException:
                replaced.rename(folder)
                raise
            shutil.rmtree(replaced)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _to_tensors(parts: Parts) -> dict[str, Tensor]:
    tensors = {
        f"autoencoder.{name}": (weight.half() if name.endswith(("weight", "bias")) else weight)
        for name, weight in parts.autoencoder.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    for prefix, value in (
        ("features", parts.good_features),
        ("head", parts.head),
        ("residual", parts.good_residuals),
        ("evidence", parts.good_evidence),
        ("domain", parts.domain),
    ):
        for field in fields(value):
            tensors[f"{prefix}.{field.name}"] = getattr(value, field.name).float()
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _read_parts(file: Path) -> Parts:
    try:
        tensors: Mapping[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedBundle(f"{file} cannot be read as safetensors: {error}") from error
    autoencoder = Autoencoder()
    weights = {
        name.removeprefix("autoencoder."): tensor.float()
        for name, tensor in tensors.items()
        if name.startswith("autoencoder.")
    }
    try:
        missing, _ = autoencoder.load_state_dict(weights, strict=False)
        if any(not name.endswith("num_batches_tracked") for name in missing):
            raise DamagedBundle(f"{file} lacks the autoencoder's {', '.join(missing)}")
        parts = Parts(
            good_features=GoodFeatures(**_prefixed(tensors, GoodFeatures, "features")),
            head=Head(**_prefixed(tensors, Head, "head")),
            autoencoder=autoencoder,
            good_residuals=ResidualStats(**_prefixed(tensors, ResidualStats, "residual")),
            good_evidence=GoodEvidence(**_prefixed(tensors, GoodEvidence, "evidence")),
            domain=Domain(**_prefixed(tensors, Domain, "domain")),
        )
    except (KeyError, RuntimeError) as error:
        raise DamagedBundle(f"{file} does not hold what this release reads: {error}") from error
    freeze(parts.autoencoder)
    return parts


def _prefixed(tensors: Mapping[str, Tensor], kind: type, prefix: str) -> dict[str, Tensor]:
    return {field.name: tensors[f"{prefix}.{field.name}"] for field in fields(kind)}
