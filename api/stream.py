"""Live lists: inspections as they finish or are decided, told to every browser that listens.

One query for all that finished within a moment, whatever the number of listeners. Nothing hangs
on it: a listener that was too slow is told to reload, and the lists themselves have everything.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import structlog
from sqlalchemy import select
from sse_starlette.event import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api import tasks
from shared.db import transaction
from shared.errors import TooMany, Unavailable
from shared.inspection_document import InspectionOut
from shared.tables import Inspection

log = structlog.stdlib.get_logger()

_GATHER_SECONDS = 0.1
_MOST_AT_ONCE = 200
_MOST_LISTENERS = 200
_MOST_OF_ONE_KEY = 50
_MOST_UNTOLD = 500
_CHECK_SECONDS = 15.0
"""So often, news or none: whether the listener may still listen."""


@dataclass(eq=False)
class _Listener:
    organisation_id: str
    base_url: str
    key_id: str
    check_at: float
    """By the clock of the loop."""
    untold: asyncio.Queue[ServerSentEvent] = field(
        default_factory=lambda: asyncio.Queue(_MOST_UNTOLD)
    )

    def tell(self, event: ServerSentEvent) -> None:
        if self.untold.full():
            while not self.untold.empty():
                self.untold.get_nowait()
            event = _RELOAD
        self.untold.put_nowait(event)


_RELOAD = ServerSentEvent(event="reload", data="{}")


class Stream:
    """All listeners of this process. Used from its event loop only."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()
        self._changed: dict[str, None] = {}
        self._has_news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        await tasks.end(self._task)

    def note(self, ids: list[str]) -> None:
        """These inspections have changed."""
        if self._listeners:
            self._changed |= dict.fromkeys(ids)
            self._has_news.set()

    def catch_up(self) -> None:
        """Some changes may not have been noted: everybody looks at the whole list again."""
        self._tell_all(_RELOAD)

    def forget(self, key_ids: list[str]) -> None:
        """These keys were revoked: look whether their listeners may go on."""
        for listener in self._listeners:
            if listener.key_id in key_ids:
                listener.check_at = 0.0
                listener.tell(_RELOAD)

    def check_room(self, key_id: str) -> None:
        """Raise TooMany where there are too many listeners already, or too many with this key."""
        of_this_key = sum(listener.key_id == key_id for listener in self._listeners)
        if len(self._listeners) >= _MOST_LISTENERS or of_this_key >= _MOST_OF_ONE_KEY:
            raise TooMany(
                "Too many live lists are open; the list itself can be read at any time.",
                code="too_many_listeners",
                retry_after=timedelta(seconds=30),
            )

    async def listen(
        self,
        organisation_id: str,
        base_url: str,
        key_id: str,
        may_listen: Callable[[], Awaitable[bool]],
    ) -> AsyncIterator[ServerSentEvent]:
        """Events `inspection`, and `reload` after a gap, until the listener or its key is gone."""
        clock = asyncio.get_running_loop().time
        listener = _Listener(organisation_id, base_url, key_id, clock() + _CHECK_SECONDS)
        self._listeners.add(listener)
        try:
            while True:
                event = None
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(listener.check_at):
                        event = await listener.untold.get()
                # Also on a busy line, where the next event always comes first.
                if clock() >= listener.check_at:
                    if not await may_listen():
                        return
                    listener.check_at = clock() + _CHECK_SECONDS
                if event is not None:
                    yield event
        finally:
            self._listeners.discard(listener)

    async def _run(self) -> None:
        while True:
            await self._has_news.wait()
            # What finishes in one batch is one query.
            await asyncio.sleep(_GATHER_SECONDS)
            self._has_news.clear()
            ids, self._changed = list(self._changed), {}
            try:
                await self._tell(ids)
            except Unavailable:
                self._tell_all(_RELOAD)
            except Exception:
                # This task must outlive any surprise.
                log.exception("stream_failed")

    async def _tell(self, ids: list[str]) -> None:
        if len(ids) > _MOST_AT_ONCE:
            self._tell_all(_RELOAD)
            return
        listeners = defaultdict[tuple[str, str], list[_Listener]](list)
        for listener in self._listeners:
            listeners[listener.organisation_id, listener.base_url].append(listener)
        events = await run_in_threadpool(_read, ids, list(listeners))
        for audience, event in events:
            for listener in listeners[audience]:
                listener.tell(event)

    def _tell_all(self, event: ServerSentEvent) -> None:
        for listener in self._listeners:
            listener.tell(event)


def _read(
    ids: list[str], audiences: list[tuple[str, str]]
) -> list[tuple[tuple[str, str], ServerSentEvent]]:
    """The documents of these inspections, each for those of its organisation, oldest first."""
    with transaction() as session:
        rows = session.scalars(
            select(Inspection)
            .where(
                Inspection.id.in_(ids),
                Inspection.organisation_id.in_({organisation for organisation, _ in audiences}),
            )
            .order_by(Inspection.finished_at)
        ).all()
    return [
        (
            (organisation, base_url),
            ServerSentEvent(
                event="inspection", data=InspectionOut.of(row, base_url).model_dump_json()
            ),
        )
        for row in rows
        for organisation, base_url in audiences
        if row.organisation_id == organisation
    ]
