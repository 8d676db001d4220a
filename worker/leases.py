"""Heartbeat: keeps the leases of this worker's batches alive while they are worked on.

A batch that takes longer than `max_batch_seconds` is taken for hung, and with it the process: it
ends at once, and whoever runs it starts it again. The lease of the hung batch runs out, so that
others judge its photos, each alone; what the other slots hold is given back before the end.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from shared import claiming, inspections
from shared.claiming import Batch
from shared.db import transaction
from shared.errors import Unavailable
from shared.settings import Settings

log = structlog.stdlib.get_logger()


def end_process() -> None:
    """Without clean-up: a hung thread cannot be stopped, and would be waited for."""
    os._exit(70)


class Leases:
    def __init__(
        self, settings: Settings, worker: str, *, end: Callable[[], None] = end_process
    ) -> None:
        """`end`: ends this process, which whoever runs it starts again."""
        self._settings = settings
        self._worker = worker
        self._end = end
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Batch, float]] = {}
        """By token, with the moment since when."""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    @contextmanager
    def kept(self, batch: Batch) -> Iterator[None]:
        """Extend the lease of this batch until the block ends."""
        with self._lock:
            self._kept[batch.token] = batch, time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._kept[batch.token]

    def give_up(self) -> None:
        """Give back what all slots hold and end the process: it is broken, no photo is to blame."""
        with self._lock:
            batches = [batch for batch, _ in self._kept.values()]
        self._give_back_and_end(batches)

    def _beat(self) -> None:
        while not self._stopped.wait(self._settings.lease_seconds / 3):
            try:
                self.beat()
            except Unavailable as error:
                log.warning("heartbeat_failed", error=str(error))
            except Exception:
                # This thread must outlive any surprise.
                log.exception("heartbeat_failed")

    def beat(self) -> None:
        """Extend the leases in use once, or give up if one of them has been in use too long."""
        with self._lock:
            kept = list(self._kept.values())
        if not kept:
            return
        hung_before = time.monotonic() - self._settings.max_batch_seconds
        sound = [batch for batch, since in kept if since >= hung_before]
        if len(sound) < len(kept):
            log.critical("batch_hung", seconds=self._settings.max_batch_seconds)
            self._give_back_and_end(sound)
            return
        with transaction() as session:
            claiming.extend(session, [batch.token for batch in sound], lease=self._settings.lease)

    def _give_back_and_end(self, batches: Sequence[Batch]) -> None:
        try:
            with transaction() as session:
                for batch in batches:
                    inspections.give_back(
                        session,
                        token=batch.token,
                        ids=[one.id for one in batch.inspections],
                        worker=self._worker,
                        code="worker_ended",
                        why="its worker had to end",
                        spend_attempt=False,
                    )
        except Exception as error:
            # Then their leases run out.
            log.warning("not_given_back", error=repr(error))
        finally:
            self._end()
