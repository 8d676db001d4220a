"""Decoding in processes of their own: whatever a file does to a decoder, the worker lives.

The structure of every file was walked before, so this is the second wall: a file that crashes,
hangs or fills a decoder costs one such process, which is replaced, and one attempt of its own.
"""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as TookTooLong
from multiprocessing.connection import wait
from threading import Lock, Thread
from typing import Any

import structlog
from pebble import ProcessExpired, ProcessPool

from shared.errors import DefectScopeError
from worker.inspect.preprocess import Photo, prepare

log = structlog.stdlib.get_logger()

_SECONDS = 15.0
"""The largest pictures that we take need 3 s alone on a core."""
_FORGOTTEN_SECONDS = 120.0
_MEMORY_BYTES = 3 * 2**30
"""Of address space. The largest pictures take some 300 MB, and libraries more than that."""


class DecoderDied(DefectScopeError):
    """The decoder crashed on this file or did not come to an end; the fault may not be the file's.

    So it is tried again, alone, while attempts are left.
    """

    code = "unreadable_image"


class DecodersBroken(Exception):
    """Not even a decoder without a file comes to its end: the fault is not that of any file."""


class Decoder:
    """Safe to share between threads."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: one for each core by default. They start with the first file."""
        self._processes = processes or os.cpu_count() or 1
        self._pool = self._make_pool()
        self._replacing = Lock()

    def _make_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._processes,
            # A fork would copy threads, locks and perhaps a CUDA context.
            context=multiprocessing.get_context("spawn"),
            initializer=_bound,
        )

    def warm(self) -> None:
        """Return when a process is there: starting one takes longer than judging a photo."""
        self._run(_nothing)

    def prepare(self, data: bytes) -> Photo:
        """As `preprocess.prepare`. Raises the same errors, DecoderDied and DecodersBroken."""
        try:
            return self._prepare(data)
        except DecoderDied:
            try:
                self.warm()
            except Exception as error:
                raise DecodersBroken("No decoder can be started.") from error
            raise

    def _prepare(self, data: bytes) -> Photo:
        try:
            photo: Photo = self._run(prepare, data)
        except TookTooLong:
            log.warning("decoder_killed", seconds=_SECONDS, bytes=len(data))
            raise DecoderDied(f"Decoding did not end within {_SECONDS:.0f} s.") from None
        except ProcessExpired as error:
            log.warning("decoder_died", exit_code=error.exitcode, bytes=len(data))
            raise DecoderDied("The decoder crashed on this file.") from None
        except MemoryError:
            raise DecoderDied("Decoding took more memory than a picture may need.") from None
        return photo

    def _run(self, function: Callable[..., Any], *arguments: object) -> Any:
        try:
            return self._try(function, *arguments)
        except CancelledError:
            # It waited in a pool that was replaced.
            return self._try(function, *arguments)

    def _try(self, function: Callable[..., Any], *arguments: object) -> Any:
        pool = self._pool
        try:
            future = pool.schedule(function, args=arguments, timeout=_SECONDS)
        except RuntimeError:
            # A process was killed while it waited for work, and the pool does not get over that.
            with self._replacing:
                if self._pool is pool:
                    log.warning("decoders_replaced")
                    self._pool = self._make_pool()
                    _end(pool)
            future = self._pool.schedule(function, args=arguments, timeout=_SECONDS)
        # Longer than any queue of pictures: only for a future that a broken pool has forgotten.
        return future.result(timeout=_FORGOTTEN_SECONDS)

    def stop(self) -> None:
        _end(self._pool)


def _end(pool: ProcessPool) -> None:
    pool.stop()  # type: ignore[no-untyped-call]
    pool.join()


def _bound() -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Ctrl-C is the worker's affair: batches in work are finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    """Even after kill -9. Linux could signal it, but at the end of the thread that began us."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
    os._exit(1)


def _nothing() -> None:
    pass
