"""The deliverer: leases endpoints for which something is due, and posts, two at a time to each.

Everything waits in one event loop, so that a hundred dead receivers cost a hundred sleeping
coroutines; the database is asked from threads.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import structlog

from shared import delivering, webhook_events, workers
from shared.addresses import Networks
from shared.db import transaction
from shared.delivering import Attempt, Batch, Due, Leased
from shared.errors import DefectScopeError
from worker.deliver import signature
from worker.deliver.posting import Answer, Poster

log = structlog.stdlib.get_logger()

_T = TypeVar("_T")

_LOOK_SECONDS = 1.0
"""Between looks that no bell asked for."""
_ENDPOINTS = 128
"""Delivered to at once."""
_IN_FLIGHT = 2
"""Posts to one endpoint: enough to keep it busy, too few to flood it."""
_BATCH = 40
_BATCH_SECONDS = 5.0
"""After which no post of the batch is begun, so that what has arrived is recorded soon."""
_LEASE = timedelta(seconds=6)
"""So long do the endpoints of a dead deliverer wait."""
_EXTEND_SECONDS = 1.0
"""Between two pushes forward of what is ours. Not with every look: they wait for the rows of
endpoints that are being settled, and what is due waits for the look."""
_REPORT_SECONDS = 5.0
"""Between two words that we are alive."""
_PATIENCE_SECONDS = 30


class Delivering:
    """Runs in a thread of its own until `stop`."""

    def __init__(self, *, name: str, base_url: str, allowed: Networks) -> None:
        """`name`: under which this process reports that it is alive, `deliverer:HOST-PID`."""
        self._name = name
        self._reports_at = 0.0
        self._extends_at = 0.0
        self._looks = 0
        self._base_url = base_url
        self._allowed = allowed
        self._stopping = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._bell = asyncio.Event()
        self._busy: dict[Leased, asyncio.Task[None]] = {}
        self._database = ThreadPoolExecutor(8, thread_name_prefix="database")
        self._thread = threading.Thread(target=self._run, name="deliver", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Look now. From any thread."""
        self._loop.call_soon_threadsafe(self._bell.set)

    def stop(self) -> None:
        """Take nothing more; posts in flight are finished and recorded."""
        self._stopping.set()
        if self._thread.is_alive():
            self.wake()
            self._thread.join(timeout=_PATIENCE_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._deliver())

    async def _deliver(self) -> None:
        self._poster = Poster(self._allowed)
        while self._busy or not self._stopping.is_set():
            self._bell.clear()
            try:
                await self._report()
                await self._look()
            except DefectScopeError as error:
                log.warning("look_failed", error=str(error))
            except Exception:
                # This loop must outlive any surprise.
                log.exception("look_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._bell.wait()
        await self._poster.close()
        with contextlib.suppress(DefectScopeError):
            await self._ask(workers.report_gone, worker=self._name)

    async def _report(self) -> None:
        if time.monotonic() >= self._reports_at:
            await self._ask(workers.report_alive, worker=self._name)
            self._reports_at = time.monotonic() + _REPORT_SECONDS

    async def _look(self) -> None:
        """Keep what is ours, and take what is due."""
        if self._busy and time.monotonic() >= self._extends_at:
            await self._ask(delivering.extend, list(self._busy), duration=_LEASE)
            self._extends_at = time.monotonic() + _EXTEND_SECONDS
        if self._stopping.is_set():
            return
        self._looks += 1
        limit = _ENDPOINTS - len(self._busy)
        for endpoint in await self._ask(delivering.lease, limit=limit, duration=_LEASE):
            self._busy[endpoint] = asyncio.create_task(self._serve(endpoint))

    async def _serve(self, endpoint: Leased) -> None:
        """Send what is due to this endpoint, batch by batch, while that makes sense."""
        looks = self._looks
        try:
            is_ours = True
            while is_ours and not self._stopping.is_set():
                batch = await self._ask(delivering.due, endpoint, limit=_BATCH)
                if batch is None:
                    break
                attempts = await self._send(batch)
                is_ours = await self._ask(
                    delivering.settle,
                    endpoint,
                    attempts,
                    duration=_LEASE,
                    is_all=batch.is_all and len(attempts) == len(batch.messages),
                )
                log.info(
                    "webhooks_sent",
                    endpoint=endpoint.id,
                    sent=len(attempts),
                    delivered=sum(attempt.is_delivered for attempt in attempts),
                )
            if is_ours:
                await self._ask(delivering.release, endpoint)
        except DefectScopeError as error:
            log.warning("delivering_failed", endpoint=endpoint.id, error=str(error))
        except Exception:
            log.exception("delivering_failed", endpoint=endpoint.id)
        finally:
            del self._busy[endpoint]
            had_no_room = len(self._busy) == _ENDPOINTS - 1
            # A look meanwhile has passed over this endpoint, though more may have become due to it.
            if self._looks > looks or had_no_room or self._stopping.is_set():
                self._bell.set()

    async def _send(self, batch: Batch) -> list[Attempt]:
        """Post the batch, two at a time; one that fails twice, or is gone, gets no more of it."""
        waiting = iter(batch.messages)
        attempts: list[Attempt] = []
        until = time.monotonic() + _BATCH_SECONDS

        async def lane() -> None:
            for due in waiting:
                attempt = await self._post(batch, due)
                attempts.append(attempt)
                failures = sum(not attempt.is_delivered for attempt in attempts)
                is_enough = (
                    failures >= delivering.FAILURES_OF_A_BATCH
                    or attempt.status_code == delivering.GONE
                )
                if is_enough or time.monotonic() > until or self._stopping.is_set():
                    return

        await asyncio.gather(*(lane() for _ in range(_IN_FLIGHT)))
        return attempts

    async def _post(self, batch: Batch, due: Due) -> Attempt:
        at = datetime.now(UTC)
        started = time.perf_counter()
        try:
            body = webhook_events.body(due, self._base_url)
            answer = await self._poster.post(
                batch.url, signature.headers(due.id, at, body, batch.secrets), body
            )
        except Exception as error:
            # One message that we cannot make or send must not hold up all behind it.
            log.exception("post_failed", delivery=due.id)
            answer = Answer(error=f"not sent, by a fault of ours: {type(error).__name__}")
        return Attempt(
            delivery_id=due.id,
            run_at=due.run_at,
            at=at,
            latency_ms=round((time.perf_counter() - started) * 1000),
            status_code=answer.status_code,
            error=answer.error,
            reply=answer.reply,
            retry_after=answer.retry_after,
        )

    async def _ask(self, ask: Callable[..., _T], *args: object, **named: object) -> _T:
        """Ask the database in a transaction of its own, without holding up the loop."""

        def run() -> _T:
            with transaction() as session:
                return ask(session, *args, **named)

        return await self._loop.run_in_executor(self._database, functools.partial(run))
