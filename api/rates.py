"""How fast one key may call: a token bucket for each key, shared by all API processes.

Every process decides from its own copy of the bucket, so no request waits for Redis; ten times a
second the copies are brought together there. Between two meetings a key can spend its burst in
each process; while Redis is away each process goes on with its own copy.
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import redis.asyncio
import structlog
from cachetools import TTLCache

from api import tasks
from shared.errors import TooMany
from shared.keys import Caller
from shared.settings import Settings

log = structlog.stdlib.get_logger()

_MEET_SECONDS = 0.1
_KEPT_SECONDS = 600
_MOST_KEYS = 100_000
_MOST_OWED = 100
"""Beyond one burst: the photos of a batch."""

_MEET = """
local now = redis.call('TIME')
now = now[1] + now[2] / 1e6
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = redis.call('HMGET', KEYS[1], 'level', 'at')
local level = burst
if kept[1] then level = math.min(burst, kept[1] + (now - kept[2]) * rate) end
level = math.max(-burst - ARGV[4], level - ARGV[3])
redis.call('HSET', KEYS[1], 'level', tostring(level), 'at', string.format('%.6f', now))
redis.call('EXPIRE', KEYS[1], math.ceil((2 * burst + ARGV[4]) / rate) + 1)
return tostring(level)
"""
"""Take what a process has spent from the shared bucket; the level that is left."""


@dataclass(slots=True)
class Bucket:
    """This process's copy. Levels are requests; `at` is a monotonic time in seconds."""

    rate: float
    burst: float
    level: float
    at: float
    spent: float = 0.0
    """Since the last meeting."""

    def take(self, count: int, now: float) -> None:
        """Spend `count` requests. Raises TooMany, and spends nothing, where they are not there.

        More than the whole burst at once, as a batch is, is let through by a full bucket, of which
        the request that brings it has spent one already; it is paid off later.
        """
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        wanted = min(count, self.burst if count == 1 else self.burst - 1)
        if self.level < wanted:
            seconds = math.ceil((wanted - self.level) / self.rate)
            raise TooMany(
                f"This key may send {self.rate:g} requests a second; come back in {seconds} s.",
                code="too_fast",
                retry_after=timedelta(seconds=seconds),
            )
        self.level -= count
        self.spent += count

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """`RateLimit` and its policy, as draft-ietf-httpapi-ratelimit-headers writes them."""
        window = math.ceil(self.burst / self.rate)
        left, full_in = max(0, int(self.level)), math.ceil((self.burst - self.level) / self.rate)
        return (
            (b"ratelimit-policy", f'"key";q={self.burst:g};w={window}'.encode()),
            (b"ratelimit", f'"key";r={left};t={full_in}'.encode()),
        )


class Rates:
    """The buckets of this process. Used from its event loop only."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._default = settings.requests_per_second
        self._redis_url = settings.redis_url
        self._clock = clock
        self._buckets: TTLCache[str, Bucket] = TTLCache(_MOST_KEYS, _KEPT_SECONDS)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        await tasks.end(self._task)

    def take(self, caller: Caller, count: int = 1) -> None:
        """Spend requests of the caller's key. Raises TooMany."""
        self.of(caller).take(count, self._clock())

    def of(self, caller: Caller) -> Bucket:
        """The caller's bucket: two seconds' worth of requests fit in."""
        rate = caller.requests_per_second or self._default
        bucket = self._buckets.get(caller.key_id)
        if bucket is None or bucket.rate != rate:
            bucket = Bucket(rate, 2 * rate, 2 * rate, self._clock())
            self._buckets[caller.key_id] = bucket
        return bucket

    async def meet(self, client: "redis.asyncio.Redis") -> None:
        """Bring the buckets that were used since the last meeting together with Redis."""
        used = [(key, bucket) for key, bucket in self._buckets.items() if bucket.spent]
        if not used:
            return
        pipeline = client.pipeline(transaction=False)
        told = []
        for key, bucket in used:
            told.append(bucket.spent)
            pipeline.eval(
                *(_MEET, 1, f"defectscope:rate:{key}"),
                *(bucket.rate, bucket.burst, told[-1], _MOST_OWED),
            )
        levels = cast(list[bytes], await pipeline.execute())
        for (_, bucket), spent, level in zip(used, told, levels, strict=True):
            # What was spent while Redis answered is told next time.
            bucket.spent -= spent
            bucket.level, bucket.at = float(level) - bucket.spent, self._clock()

    async def _run(self) -> None:
        is_away = False
        client = redis.asyncio.Redis.from_url(
            self._redis_url, socket_connect_timeout=1, socket_timeout=1
        )
        async with client:
            while True:
                await asyncio.sleep(_MEET_SECONDS)
                try:
                    await self.meet(client)
                except (redis.asyncio.RedisError, OSError) as error:
                    if not is_away:
                        log.warning("rates_are_local", error=str(error))
                    is_away = True
                    await asyncio.sleep(1)
                except Exception:
                    # This task must outlive any surprise.
                    log.exception("rates_failed")
                else:
                    is_away = False
