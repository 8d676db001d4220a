"""Callers who wait for a verdict, without holding a thread or a connection.

Workers tell finished ids (news.py); in case nobody hears them, one query every half second asks
for all waiting callers at once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from starlette.concurrency import run_in_threadpool

from api import tasks
from shared import inspection_queries
from shared.db import transaction
from shared.errors import Unavailable

log = structlog.stdlib.get_logger()

_LOOK_SECONDS = 0.5


class Waiting:
    """All callers of this process who wait. Used from its event loop only."""

    def __init__(self) -> None:
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        await tasks.end(self._task)

    @contextmanager
    def expecting(self, inspection_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the inspection is finished.

        Enter before reading the row, or a verdict in between is missed.
        """
        event = asyncio.Event()
        self._events[inspection_id].add(event)
        try:
            yield event
        finally:
            events = self._events[inspection_id]
            events.discard(event)
            if not events:
                del self._events[inspection_id]

    def wake(self, ids: list[str]) -> None:
        """These inspections are finished."""
        for id_ in ids:
            # `get`, not []: a defaultdict would keep an entry for every finished inspection.
            for event in self._events.get(id_, ()):
                event.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._events:
                continue
            try:
                self.wake(await run_in_threadpool(_finished, list(self._events)))
            except Unavailable:
                continue
            except Exception:
                # This task must outlive any surprise: without Redis, it alone wakes callers.
                log.exception("look_failed")


def _finished(ids: list[str]) -> list[str]:
    with transaction() as session:
        return inspection_queries.finished(session, ids)
