"""Heartbeat: keeps the leases of this worker's batches alive while they are worked on.

A batch that takes longer than `max_batch_seconds` is taken for hung, and with it
the process: it ends at once, whoever runs it starts it again, and its leases run
out, so that others judge its photos.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from shared import claiming
from shared.db import transaction
from shared.errors import Unavailable
from shared.settings import Settings

log = structlog.stdlib.get_logger()


class Leases:
    def __init__(self, settings: Settings, *, give_up: Callable[[], None] | None = None) -> None:
        self._settings = settings
        self._give_up = give_up or end_process
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    @contextmanager
    def kept(self, token: str) -> Iterator[None]:
        """Extend the lease of this token until the block ends."""
        with self._lock:
            self._since[token] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._since[token]

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
            since = dict(self._since)
        if not since:
            return
        if min(since.values()) < time.monotonic() - self._settings.max_batch_seconds:
            log.critical("batch_hung", seconds=self._settings.max_batch_seconds)
            self._give_up()
            return
        with transaction() as session:
            claiming.extend(session, list(since), lease=self._settings.lease)


def end_process() -> None:
    """Without clean-up: a hung thread cannot be stopped, and would be waited for."""
    os._exit(70)
