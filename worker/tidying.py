"""What has been kept for long enough goes: pictures, uploads that nobody submitted, old keys.

Beside upkeep, not in it: a store that is slow or away must not keep dead workers' photos waiting.
Any worker does it, one at a time, under an advisory lock.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import text

from shared import deliveries, idempotency, retention, sessions, uploads
from shared.db import transaction
from shared.errors import StorageUnavailable
from shared.retention import Pictures
from shared.settings import Settings
from shared.storage import storage
from worker.rounds import Rounds

log = structlog.stdlib.get_logger()

_LOCK = 0x0DEF71D7
_OBJECTS_AT_ONCE = 100
"""Uploads, and inspections, whose objects are deleted before their rows say so."""
_PAUSE_SECONDS = 60
"""Things are kept for hours or days: nobody waits for this."""


class Tidying:
    def __init__(self, settings: Settings, worker: str) -> None:
        self._log_days = settings.webhook_log_days
        self._worker = worker
        self.rounds = Rounds("tidying", self.round, pause_seconds=_PAUSE_SECONDS)

    def round(self) -> None:
        """Delete all that is due. Out of storage first, then the rows say so: what a crash
        interrupts is done again.
        """
        while self._some():
            pass

    def _some(self) -> bool:
        """A bounded part of everything; True if there may be more of anything."""
        is_more = False
        abandoned: dict[str, str] = {}
        pictures: list[Pictures] = []
        with transaction() as session:
            if session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK}):
                is_more |= idempotency.forget_old(session)
                is_more |= deliveries.forget_old(session, days=self._log_days)
                sessions.forget_old(session)
                abandoned = uploads.find_expired(session, limit=_OBJECTS_AT_ONCE)
                pictures = retention.find_expired(session, limit=_OBJECTS_AT_ONCE)
                is_more |= _OBJECTS_AT_ONCE in {len(abandoned), len(pictures)}
        forgotten = [id_ for id_, key in abandoned.items() if _delete([key])]
        without_pictures = [entry.inspection_id for entry in pictures if _delete(entry.keys)]
        if forgotten:
            with transaction() as session:
                uploads.forget(session, forgotten)
        if without_pictures:
            with transaction() as session:
                retention.note_deleted(session, without_pictures, actor=self._worker)
            log.info("pictures_deleted", inspections=len(without_pictures))
        # What the store keeps for itself would be found again at once.
        is_all = len(forgotten) + len(without_pictures) == len(abandoned) + len(pictures)
        return is_more and is_all


def _delete(keys: Sequence[str]) -> bool:
    """False if the store refuses one of them. Raises StorageUnavailable if all of it is away."""
    try:
        for key in keys:
            storage().delete(key)
    except StorageUnavailable as error:
        storage().check()
        log.warning("not_deleted", keys=keys, error=str(error))
        return False
    return True
