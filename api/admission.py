"""Who may come in now: bounds on what is read at once and on what waits in the queue.

Refusing early, with a time to come back, keeps memory and queue from growing without bound. Both
checks cost nothing: the depth of the queue is looked up once a second for all callers.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta

import structlog
from starlette.concurrency import run_in_threadpool

from shared import inspection_queries
from shared.db import transaction
from shared.errors import TooMany, Unavailable
from shared.settings import Settings

log = structlog.stdlib.get_logger()

_LOOK_SECONDS = 1.0
_COME_BACK_TO_A_FULL_QUEUE = timedelta(seconds=10)
_COME_BACK_TO_A_BUSY_GATEWAY = timedelta(seconds=1)


class Admission:
    """Of this process. Used from its event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._most_queued = settings.max_queued
        self._most_at_once = settings.max_submissions
        self._at_once = 0
        self._queued = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def one(self) -> AbstractContextManager[None]:
        """Hold a place while a submission is read and stored. Raises TooMany."""
        return self.places(1)

    @contextmanager
    def places(self, count: int) -> Iterator[None]:
        """As many places as what is received may take memory. Raises TooMany."""
        if self._queued >= self._most_queued:
            raise TooMany(
                f"{self._most_queued} photos wait to be judged already; send this one again later.",
                code="queue_full",
                retry_after=_COME_BACK_TO_A_FULL_QUEUE,
            )
        # A batch alone always fits, whatever the setting.
        if self._at_once and self._at_once + count > self._most_at_once:
            raise TooMany(
                f"{self._at_once} photos are being received at this moment; send this one "
                "again in a second.",
                code="too_many_at_once",
                retry_after=_COME_BACK_TO_A_BUSY_GATEWAY,
            )
        self._at_once += count
        try:
            yield
        finally:
            self._at_once -= count

    async def _look(self) -> None:
        while True:
            try:
                self._queued = await run_in_threadpool(_depth, self._most_queued)
            except Unavailable:
                pass  # whoever submits is told so anyway
            except Exception:
                # This task must outlive any surprise, or the queue has no bound.
                log.exception("look_failed")
            await asyncio.sleep(_LOOK_SECONDS)


def _depth(most: int) -> int:
    with transaction() as session:
        return inspection_queries.count_queued(session, most=most)
