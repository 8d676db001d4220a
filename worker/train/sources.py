"""Where a training gets its backbone: the bundled one, torchvision's, or a file.

Whatever the source, the bundle gets a safetensors file in our format, and
training computes its features from that very file.
"""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from shared.errors import DamagedBundle, InvalidInput, Unavailable
from worker.inspect.backbone import build_backbone, digest_of, save_backbone
from worker.inspect.torchvision_import import DenseNet121_Weights

BUNDLES = Path(__file__).parent.parent / "bundles"

# Files from before PyTorch 0.4 say `norm.1`, today's layers are called `norm1`.
_OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True)
class BackboneFile:
    path: Path
    sha256: str
    provenance: str


def obtain_backbone(source: str, folder: Path) -> BackboneFile:
    """The backbone's file: `bundled`, `imagenet`, or a path to .pth or .safetensors weights.

    Foreign weights are converted into `folder`. Raises InvalidInput if the file
    does not hold DenseNet-121, Unavailable if torchvision cannot download.
    """
    if source == "bundled":
        return bundled_backbone()
    if source == "imagenet":
        return _convert(_download(), folder, "DenseNet-121, torchvision's IMAGENET1K_V1 weights")
    file = Path(source)
    if not file.is_file():
        raise InvalidInput(
            f"{source} is not `bundled`, not `imagenet` and not a file of weights",
            field="backbone",
        )
    origin = f"DenseNet-121 with the weights of {file.name} ({digest_of(file)})"
    return _convert(_read(file), folder, origin)


def bundled_backbone() -> BackboneFile:
    """The one backbone file that comes with this release."""
    files = sorted(BUNDLES.glob("backbone-*.safetensors"))
    if len(files) != 1:
        raise DamagedBundle(f"{BUNDLES} should hold one backbone-*.safetensors, not {len(files)}")
    return _described(files[0])


def _described(file: Path) -> BackboneFile:
    with safe_open(file, framework="pt") as opened:
        provenance = (opened.metadata() or {}).get("provenance", "unknown")
    return BackboneFile(file, digest_of(file), provenance)


def _convert(weights: Mapping[str, Tensor], folder: Path, provenance: str) -> BackboneFile:
    file = folder / "backbone.safetensors"
    save_backbone(features_of(weights), file, provenance=provenance)
    digest = digest_of(file).removeprefix("sha256:")
    return _described(file.rename(folder / f"backbone-{digest[:12]}.safetensors"))


def features_of(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The feature layers out of a state dict of DenseNet-121, in either naming.

    Takes torchvision's whole network (`features.…`, `classifier.…`) or the
    feature layers alone. Raises InvalidInput naming what is missing or misshapen.
    """
    prefix = "features." if any(name.startswith("features.") for name in weights) else ""
    found = {
        _OLD_NAME.sub(r"\1\2", name.removeprefix(prefix)): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }
    kept: dict[str, Tensor] = {}
    for name, expected in build_backbone().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        weight = found.get(name)
        if not isinstance(weight, Tensor) or weight.shape != expected.shape:
            problem = "is missing" if weight is None else "has another shape"
            raise InvalidInput(
                f"not the weights of DenseNet-121: {name} {problem}", field="backbone"
            )
        kept[name] = weight
    return kept


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            weights: object = load_file(file)
        else:
            # weights_only: a .pth is a pickle, and unpickling anything else runs code.
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InvalidInput(
            f"{file} cannot be read as weights: {error}", field="backbone"
        ) from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict):
        raise InvalidInput(f"{file} holds no state dict", field="backbone")
    return weights


def _download() -> Mapping[str, Tensor]:
    try:
        weights: dict[str, Tensor] = DenseNet121_Weights.IMAGENET1K_V1.get_state_dict(
            progress=True, check_hash=True, weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        raise Unavailable(
            f"torchvision could not download its ImageNet weights ({error}); "
            "give the path of a downloaded file to --backbone instead"
        ) from error
    return weights
