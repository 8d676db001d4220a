"""How many lists one key may have read at once: a search for what is rare reads a whole table.

Whoever floods us with those, with a stolen key that may only read, must not take the connections
that submissions need.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from shared.errors import TooMany
from shared.keys import Caller

AT_ONCE = 4
_PATIENCE_SECONDS = 2.0
_COME_BACK = timedelta(seconds=1)


class Looks:
    """Of this process. Used from its event loop only."""

    def __init__(self) -> None:
        # One for each key that ever read a list here: there are no more of them than keys.
        self._places: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def place(self, caller: Caller) -> AsyncIterator[None]:
        """One of the caller's few places; waits a moment for it. Raises TooMany."""
        places = self._places.setdefault(caller.key_id, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await places.acquire()
        except TimeoutError as error:
            raise TooMany(
                f"{AT_ONCE} lists of this key are being read at this moment; ask for one after "
                "the other.",
                code="too_many_lists",
                retry_after=_COME_BACK,
            ) from error
        try:
            yield
        finally:
            places.release()
