"""The only door to torchvision: import `densenet121` and its weights from here.

torchvision's compiled part must find the CUDA libraries that it was built with.
Beside a CPU-only torch it does not load, the two operators below are then
undefined, and `import torchvision` fails although we use no compiled operator.
Defining their signatures first is all that the import needs.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _is_defined() -> bool:
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


# The definitions live as long as this object does. A fragment, so that other
# code which defines operators of that name space is not in conflict with us.
_definitions: torch.library.Library | None = None
if not _is_defined():
    _definitions = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _schema in _SCHEMAS:
        _definitions.define(_schema)  # type: ignore[no-untyped-call]

from torchvision.models import DenseNet121_Weights, densenet121  # noqa: E402

__all__ = ["DenseNet121_Weights", "densenet121"]
