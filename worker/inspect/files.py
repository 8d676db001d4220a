"""The pipeline over files on disk, without a service: `predict` and `evaluate`."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from shared.errors import DefectScopeError, NotANumber, UnreadableImage
from worker.inspect.bundle import ProductModel, load_bundle
from worker.inspect.engines.choice import AUTO, Engines
from worker.inspect.pipeline import Inspector, Judgement
from worker.inspect.preprocess import Photo, prepare

_AT_ONCE = 3
"""Batches in flight: while one is decoded, the next is judged."""

Judged = tuple[Path, Judgement | DefectScopeError]


def open_bundle(folder: Path, *, engine: str = AUTO) -> tuple[Inspector, ProductModel]:
    """A bundle and an inspector that judges with it as a worker would.

    Raises DamagedBundle, and InvalidInput for an engine that cannot run here.
    """
    model = load_bundle(folder)
    return Inspector(Engines(engine).choose(model)), model


def judge_files(
    inspector: Inspector, model: ProductModel, paths: Sequence[Path]
) -> Iterator[Judged]:
    """Judge files in the order given; what cannot be judged comes with the reason."""

    def judge(batch: Sequence[Path]) -> list[Judged]:
        prepared = [_prepare(path) for path in batch]
        photos = [photo for photo in prepared if isinstance(photo, Photo)]
        judged = iter(inspector.judge(photos, [model] * len(photos)))
        return [
            (path, _checked(next(judged)) if isinstance(photo, Photo) else photo)
            for path, photo in zip(batch, prepared, strict=True)
        ]

    size = inspector.engine.batch_size
    batches = (paths[first : first + size] for first in range(0, len(paths), size))
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        running: deque[Future[list[Judged]]] = deque()
        for batch in batches:
            running.append(pool.submit(judge, batch))
            if len(running) > _AT_ONCE:
                yield from running.popleft().result()
        for future in running:
            yield from future.result()


def _checked(judgement: Judgement) -> Judgement | DefectScopeError:
    return judgement if judgement.scores.are_finite else NotANumber()


def _prepare(path: Path) -> Photo | DefectScopeError:
    try:
        return prepare(path.read_bytes())
    except DefectScopeError as error:
        return error
    except OSError as error:
        return UnreadableImage(f"{path} cannot be read: {error.strerror}")
