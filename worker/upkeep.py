"""Rounds that keep the queue honest: any worker does them, one at a time.

Under an advisory lock: the photos of expired leases go back to the queue, where the next look of
any worker finds them.
"""

import structlog
from sqlalchemy import text

from shared import inspections
from shared.db import transaction
from shared.errors import DefectScopeError
from shared.queue import tell_finished
from shared.settings import Settings
from shared.workers import forget_dead, report_alive, report_gone
from worker.models import Models
from worker.rounds import Rounds

log = structlog.stdlib.get_logger()

_SWEEPER_LOCK = 0x0DEF5EE9


class Upkeep:
    def __init__(self, settings: Settings, models: Models, worker: str) -> None:
        self._settings = settings
        self._models = models
        self._worker = worker
        self._rounds = Rounds("upkeep", self.round, pause_seconds=settings.upkeep_seconds)

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.stop()
        try:
            with transaction() as session:
                report_gone(session, worker=self._worker)
        except DefectScopeError as error:
            log.warning("farewell_failed", error=str(error))

    def round(self) -> None:
        """One round: say that we are alive, and sweep if nobody else does."""
        with transaction() as session:
            report_alive(session, worker=self._worker, engine=", ".join(self._models.engine_names))
            is_ours = session.scalar(
                text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _SWEEPER_LOCK}
            )
            swept = None
            if is_ours:
                forget_dead(session)
                swept = inspections.sweep(session, max_attempts=self._settings.max_attempts)
        if swept is not None:
            if swept.failed:
                tell_finished(swept.failed)
            if swept.requeued or swept.failed:
                log.warning("leases_expired", requeued=swept.requeued, failed=len(swept.failed))
