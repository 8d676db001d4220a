"""The pipeline over files on disk, without a service: `predict` and `evaluate`."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shared.errors import DefectScopeError, UnreadableImage
from worker.inspect.bundle import ProductModel, load_bundle
from worker.inspect.engines.torch_engine import TorchEngine
from worker.inspect.pipeline import Inspector, Judgement
from worker.inspect.preprocess import Photo, prepare

_BATCH = 8


def open_bundle(folder: Path) -> tuple[Inspector, ProductModel]:
    """A bundle and an inspector that can judge with it. Raises DamagedBundle."""
    model = load_bundle(folder)
    engine = TorchEngine(model.backbone, sha256=model.manifest.backbone.sha256)
    return Inspector(engine), model


def judge_files(
    inspector: Inspector, model: ProductModel, paths: Sequence[Path]
) -> Iterator[tuple[Path, Judgement | DefectScopeError]]:
    """Judge files in the order given; what cannot be judged comes with the reason."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        for first in range(0, len(paths), _BATCH):
            batch = paths[first : first + _BATCH]
            prepared = list(pool.map(_prepare, batch))
            photos = [photo for photo in prepared if isinstance(photo, Photo)]
            judgements = iter(inspector.judge(photos, [model] * len(photos)))
            for path, photo in zip(batch, prepared, strict=True):
                yield path, next(judgements) if isinstance(photo, Photo) else photo


def _prepare(path: Path) -> Photo | DefectScopeError:
    try:
        return prepare(path.read_bytes())
    except DefectScopeError as error:
        return error
    except OSError as error:
        return UnreadableImage(f"{path} cannot be read: {error.strerror}")
