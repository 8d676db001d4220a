"""Tasks that run as long as the app does."""

import asyncio

_ASK_AGAIN_SECONDS = 0.5


async def end(task: "asyncio.Task[None] | None") -> None:
    """Cancel it until it is over: redis.asyncio swallows a cancellation now and then."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_ASK_AGAIN_SECONDS)
