"""Children that end when their parent does, however it ends."""

import ctypes
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def ending_with_parent(stop_signal: signal.Signals) -> Callable[[], None]:
    """What a child calls first: Linux then signals it when its parent dies, even by kill -9.

    The parent is the thread that started the child. Elsewhere than on Linux this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return lambda: None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(stop_signal))

    return ask
