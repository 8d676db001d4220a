"""Callers who wait for a verdict, without holding a thread or a connection.

Workers tell finished ids over Redis; in case that is away, one query every half
second asks for all waiting callers at once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import redis.asyncio
import structlog
from starlette.concurrency import run_in_threadpool

from shared import inspection_queries
from shared.db import transaction
from shared.errors import Unavailable
from shared.queue import FINISHED

log = structlog.stdlib.get_logger()

_LOOK_SECONDS = 0.5


class Waiting:
    """All callers of this process who wait. Used from its event loop only."""

    def __init__(self, redis_url: str) -> None:
        self._redis_url = redis_url
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look())]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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

    def _wake(self, ids: list[str]) -> None:
        for id_ in ids:
            # `get`, not []: a defaultdict would keep an entry for every finished inspection.
            for event in self._events.get(id_, ()):
                event.set()

    async def _listen(self) -> None:
        while True:
            try:
                async with (
                    redis.asyncio.Redis.from_url(
                        self._redis_url, decode_responses=True, socket_connect_timeout=2
                    ) as client,
                    client.pubsub() as channel,
                ):
                    await channel.subscribe(FINISHED)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._wake(message["data"].split())
            except (redis.asyncio.RedisError, OSError) as error:
                log.debug("wake_ups_away", error=str(error))
            except Exception:
                log.exception("listening_failed")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if not self._events:
                continue
            try:
                self._wake(await run_in_threadpool(_finished, list(self._events)))
            except Unavailable:
                continue
            except Exception:
                # This task must outlive any surprise: without Redis, it alone wakes callers.
                log.exception("look_failed")


def _finished(ids: list[str]) -> list[str]:
    with transaction() as session:
        return inspection_queries.finished(session, ids)
