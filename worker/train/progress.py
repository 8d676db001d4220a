"""How training and evaluation tell whoever waits how far they are."""

import sys
from typing import Protocol


class Progress(Protocol):
    """Hears of every step that may take longer than a second."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """`done` of `total` parts of `step` are finished; a step ends with done == total."""


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def print_progress(step: str, done: int, total: int) -> None:
    """One line a step on standard error."""
    sys.stderr.write(f"\r{step}: {done}/{total}" + ("\n" if done == total else ""))
