"""A thread that does the same thing again and again, and outlives any surprise in it."""

import threading
from collections.abc import Callable

import structlog

from shared.errors import DefectScopeError

log = structlog.stdlib.get_logger()


class Rounds:
    def __init__(self, name: str, do: Callable[[], None], *, pause_seconds: float) -> None:
        self._name = name
        self._do = do
        self._pause_seconds = pause_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, wait_seconds: float = 5) -> None:
        """No further round; the one that is going on is waited for so long."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=wait_seconds)

    def _run(self) -> None:
        while True:
            try:
                self._do()
            except DefectScopeError as error:
                log.warning(f"{self._name}_failed", error=str(error))
            except Exception:
                log.exception(f"{self._name}_failed")
            if self._stopped.wait(self._pause_seconds):
                return
