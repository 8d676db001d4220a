"""Who may come in now: bounds on what is read and stored at once, and on what waits in the queue.

Refusing early, with a time to come back, keeps memory and queue from growing without bound. The
checks cost nothing: the queue is counted once a second for all callers. What a second brings can
come on top; how much that is, rates.py bounds.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import ParamSpec, TypeVar

import structlog
from starlette.concurrency import run_in_threadpool

from api import tasks
from shared import inspection_queries
from shared.db import transaction
from shared.errors import StorageUnavailable, TooMany, Unavailable
from shared.keys import Caller
from shared.settings import Settings

log = structlog.stdlib.get_logger()
P = ParamSpec("P")
T = TypeVar("T")

_STORED_AT_ONCE = 16
"""Submissions in threads: where the store hangs they take no more, since who polls needs one."""
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_LOOK_SHARE = 0.05
"""Of the time may be spent on counting: a long queue is counted less often."""
_COME_BACK_TO_A_FULL_QUEUE = timedelta(seconds=10)
_COME_BACK_TO_A_BUSY_GATEWAY = timedelta(seconds=1)


class Admission:
    """Of this process. Used from its event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._most_queued = settings.max_queued
        self._most_queued_of_key = settings.max_queued_per_key
        self._most_held = settings.max_receiving_bytes
        self._storing = asyncio.Semaphore(_STORED_AT_ONCE)
        self._held = 0
        self._queued: Counter[str] = Counter()
        """Photos that wait, by key."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        await tasks.end(self._task)

    @contextmanager
    def room(self, caller: Caller) -> Iterator["Room"]:
        """Room in memory while a submission is received and stored. Raises TooMany."""
        most, its_most = self._most_queued, caller.max_queued or self._most_queued_of_key
        if self._queued.total() >= most:
            raise TooMany(
                f"{most} photos wait to be judged already; send this one again later.",
                code="queue_full",
                retry_after=_COME_BACK_TO_A_FULL_QUEUE,
            )
        if self._queued[caller.key_id] >= its_most:
            raise TooMany(
                f"{its_most} photos of this key wait to be judged already; send this one again "
                "later.",
                code="quota_exceeded",
                retry_after=_COME_BACK_TO_A_FULL_QUEUE,
            )
        room = Room(self)
        try:
            yield room
        finally:
            self._held -= room.bytes

    async def _look(self) -> None:
        while True:
            pause = _LOOK_SECONDS
            try:
                started = time.monotonic()
                self._queued = await run_in_threadpool(_count, self._most_queued)
                pause = max(pause, (time.monotonic() - started) / _LOOK_SHARE)
            except Unavailable:
                pass  # whoever submits is told so anyway
            except Exception:
                # This task must outlive any surprise, or the queue has no bound.
                log.exception("look_failed")
            await asyncio.sleep(pause)


class Room:
    """What one submission holds: whoever sends slowly holds little, and is in nobody's way."""

    def __init__(self, door: Admission) -> None:
        self._door = door
        self.bytes = 0

    def take(self, count: int) -> None:
        """Before so many more bytes are kept. Raises TooMany where all submissions together hold
        too many; one that is alone always fits.
        """
        others = self._door._held - self.bytes
        if others and self._door._held + count > self._door._most_held:
            raise TooMany(
                f"{others} bytes of other photos are being received at this moment; send this one "
                "again in a second.",
                code="too_many_at_once",
                retry_after=_COME_BACK_TO_A_BUSY_GATEWAY,
            )
        self.bytes += count
        self._door._held += count

    async def store(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what stores and commits in one of the few threads for it.

        Raises StorageUnavailable if none is free for long.
        """
        storing = self._door._storing
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await storing.acquire()
        except TimeoutError as error:
            raise StorageUnavailable(
                "What is submitted cannot be stored fast enough now; send it again later."
            ) from error
        try:
            return await run_in_threadpool(function, *args, **kwargs)
        finally:
            storing.release()


def _count(most: int) -> Counter[str]:
    with transaction() as session:
        return Counter(inspection_queries.count_queued(session, most=most))
