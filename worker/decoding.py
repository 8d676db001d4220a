"""Decoding in processes of their own: whatever a file does to a decoder, the worker lives.

The structure of every file was walked before, so this is the second wall: a file that crashes,
hangs or fills a decoder costs one such process, which is replaced, and one attempt of its own.
"""

import multiprocessing
import os
import resource
import signal
from concurrent.futures import TimeoutError as TookTooLong

import structlog
from pebble import ProcessExpired, ProcessPool

from shared.errors import DefectScopeError
from shared.processes import ending_with_parent
from worker.inspect.preprocess import Photo, prepare

log = structlog.stdlib.get_logger()

_SECONDS = 15.0
"""The largest pictures that we take need 3 s alone on a core."""
_MEMORY_BYTES = 3 * 2**30
"""Of address space. 50 megapixels of 16 bits with alpha take 400 MB, several times over."""


class DecoderDied(DefectScopeError):
    """The decoder crashed on this file or did not come to an end; the fault may not be the file's.

    So it is tried again, alone, while attempts are left.
    """

    code = "unreadable_image"


class Decoder:
    """Safe to share between threads."""

    def __init__(self, processes: int | None = None) -> None:
        """`processes`: one for each core by default. They start with the first file."""
        self._pool = ProcessPool(
            max_workers=processes or os.cpu_count() or 1,
            # A fork would copy threads, locks and perhaps a CUDA context.
            context=multiprocessing.get_context("spawn"),
            initializer=_bound,
        )

    def warm(self) -> None:
        """Return when a process is there: starting one takes longer than judging a photo."""
        self._pool.schedule(_nothing).result()

    def prepare(self, data: bytes) -> Photo:
        """As `preprocess.prepare`. Raises the same errors, and DecoderDied."""
        try:
            photo: Photo = self._pool.schedule(prepare, args=[data], timeout=_SECONDS).result()
        except TookTooLong:
            log.warning("decoder_killed", seconds=_SECONDS, bytes=len(data))
            raise DecoderDied(f"Decoding did not end within {_SECONDS:.0f} s.") from None
        except ProcessExpired as error:
            log.warning("decoder_died", exit_code=error.exitcode, bytes=len(data))
            raise DecoderDied("The decoder crashed on this file.") from None
        except MemoryError:
            raise DecoderDied("Decoding took more memory than a picture may need.") from None
        return photo

    def stop(self) -> None:
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()


def _bound() -> None:
    ending_with_parent(signal.SIGKILL)()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    # Ctrl-C is the worker's affair: batches in work are finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _nothing() -> None:
    pass
