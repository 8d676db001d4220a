"""Rounds that keep the queue honest: any worker does them, one at a time.

Under an advisory lock: expired leases go back to the queue, and if photos wait
that nobody heard the bell for, it is rung again.
"""

import threading

import structlog
from sqlalchemy import text

from shared import inspections, uploads
from shared.db import transaction
from shared.errors import DefectScopeError
from shared.queue import Ringer, tell_finished
from shared.settings import Settings
from shared.storage import storage
from shared.workers import forget_dead, report_alive, report_gone
from worker.models import Models

log = structlog.stdlib.get_logger()

_SWEEPER_LOCK = 0x0DEF5EE9


class Upkeep:
    def __init__(self, settings: Settings, models: Models, ringer: Ringer, worker: str) -> None:
        self._settings = settings
        self._models = models
        self._ringer = ringer
        self._worker = worker
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        try:
            with transaction() as session:
                report_gone(session, worker=self._worker)
        except DefectScopeError as error:
            log.warning("farewell_failed", error=str(error))

    def _run(self) -> None:
        while True:
            try:
                self.round()
            except DefectScopeError as error:
                log.warning("upkeep_failed", error=str(error))
            except Exception:
                # This thread must outlive any surprise: without it, dead workers' photos hang.
                log.exception("upkeep_failed")
            if self._stopped.wait(self._settings.upkeep_seconds):
                return

    def round(self) -> None:
        """One round: say that we are alive, sweep if nobody else does, load new versions."""
        with transaction() as session:
            report_alive(session, worker=self._worker, engine=", ".join(self._models.engine_names))
            is_ours = session.scalar(
                text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _SWEEPER_LOCK}
            )
            swept = None
            expired: list[str] = []
            if is_ours:
                forget_dead(session)
                swept = inspections.sweep(session, max_attempts=self._settings.max_attempts)
                expired = uploads.forget_expired(session)
        for key in expired:
            storage().delete(key)
        if swept is not None:
            if swept.failed:
                tell_finished(swept.failed)
            if swept.requeued or swept.failed:
                log.warning("leases_expired", requeued=swept.requeued, failed=len(swept.failed))
            if swept.waiting:
                self._ringer.ring()
        self._models.refresh()
        self._models.refresh_shadows()
