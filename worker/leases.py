"""Heartbeat: keeps the leases of this worker's batches alive while they are worked on.

A batch that takes longer than `max_batch_seconds` is taken for hung: its lease
is no longer extended, runs out, and the sweeper gives its photos to others.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from shared import inspections
from shared.db import transaction
from shared.errors import Unavailable
from shared.settings import Settings

log = structlog.stdlib.get_logger()


class Leases:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
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

    def _alive(self) -> list[str]:
        oldest = time.monotonic() - self._settings.max_batch_seconds
        with self._lock:
            return [token for token, since in self._since.items() if since >= oldest]

    def _beat(self) -> None:
        while not self._stopped.wait(self._settings.lease_seconds / 3):
            tokens = self._alive()
            if not tokens:
                continue
            try:
                with transaction() as session:
                    inspections.extend(session, tokens, lease=self._settings.lease)
            except Unavailable as error:
                log.warning("heartbeat_failed", error=str(error))
