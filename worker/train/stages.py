"""What a training has finished, on disk: a killed one goes on where it was.

Each stage is a safetensors file in a folder beside the bundle that is being made. The folder
is bound to everything that the stages follow from; another data set, seed or backbone starts
afresh. It goes when the bundle is written.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import worker
from shared.errors import Conflict
from worker.inspect.backbone import save_safetensors

log = structlog.stdlib.get_logger()

_FOLLOWS_FROM = "follows-from"
_LIBRARIES = ("torch", "openvino", "numpy", "opencv-python-headless")


@contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Let no other training use the folder meanwhile. Raises Conflict if one does already."""
    lock = folder.with_name(f"{folder.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Conflict(f"another training is writing to {folder}: wait for it") from error
        yield
        # Whoever opened it meanwhile has failed; the next makes a new one.
        lock.unlink(missing_ok=True)


def computed_by(engine: str) -> dict[str, Any]:
    """What the numbers of a stage depend on beside its input: code, libraries and arithmetic.

    All code of the worker counts. Which of it a stage uses nobody would keep in order by hand.
    """
    code = hashlib.sha256()
    root = Path(worker.__file__).parent
    for file in sorted(root.rglob("*.py")):
        source = file.read_bytes()
        code.update(f"{file.relative_to(root)} {len(source)}\n".encode() + source)
    return {
        "code": code.hexdigest(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "engine": engine,
        "processor": sorted(
            name for name, has in torch.cpu.get_capabilities().items() if has is True
        ),
    }


class Stages:
    """The finished stages of one training."""

    def __init__(self, folder: Path, follows_from: Mapping[str, Any]) -> None:
        """`follows_from`: whatever decides what the stages contain, as JSON can hold it."""
        self._folder = folder
        digest = hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()
        mark = folder / _FOLLOWS_FROM
        if not mark.is_file() or mark.read_text() != digest:
            self.clear()
            folder.mkdir(parents=True)
            mark.write_text(digest)

    def once(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The stage's tensors: read where they are finished, else made and kept."""
        file = self._folder / f"{name}.safetensors"
        if file.is_file():
            try:
                tensors: dict[str, Tensor] = load_file(file)
            except (OSError, SafetensorError) as error:
                log.warning("stage_unreadable", file=str(file), error=str(error))
            else:
                return tensors
        made = {key: tensor.contiguous() for key, tensor in make().items()}
        save_safetensors(made, file)
        return made

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._folder, ignore_errors=True)
