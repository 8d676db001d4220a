"""What other processes tell over Redis: finished inspections, revoked keys.

All of it can be lost, and nothing hangs on it: whoever waits looks into the database as well.
"""

import asyncio
from collections.abc import Callable, Mapping

import redis.asyncio
import structlog

from api import tasks

log = structlog.stdlib.get_logger()

_PAUSE_SECONDS = 0.5


class News:
    """Passes the words of every message on a channel to its reader, in the event loop."""

    def __init__(
        self,
        redis_url: str,
        readers: Mapping[str, Callable[[list[str]], None]],
        after_gap: Callable[[], None],
    ) -> None:
        """`after_gap`: called when messages are heard again, after some may have been lost."""
        self._redis_url = redis_url
        self._readers = readers
        self._after_gap = after_gap
        self._is_deaf = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        await tasks.end(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (redis.asyncio.RedisError, OSError) as error:
                log.debug("news_away", error=str(error))
            except Exception:
                # This task must outlive any surprise.
                log.exception("listening_failed")
            self._is_deaf = True
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self) -> None:
        async with (
            redis.asyncio.Redis.from_url(
                self._redis_url,
                decode_responses=True,
                socket_connect_timeout=2,
                socket_keepalive=True,
            ) as client,
            client.pubsub() as channel,
        ):
            await channel.subscribe(*self._readers)
            async for message in channel.listen():
                if message["type"] == "subscribe" and self._is_deaf:
                    self._is_deaf = False
                    self._after_gap()
                if message["type"] == "message":
                    self._readers[message["channel"]](message["data"].split())
