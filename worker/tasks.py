"""The Celery tasks. A bell has no arguments and no result: the rows say what is to be done."""

from shared.queue import JUDGE, celery_app
from worker.judging import Judging

_judging: Judging | None = None


def serve_with(judging: Judging) -> None:
    """Set what the tasks of this process work with. Called once, before the worker starts."""
    global _judging  # noqa: PLW0603 - Celery finds tasks by module, not by object
    _judging = judging


@celery_app().task(name=JUDGE)
def judge() -> None:
    if _judging is None:
        raise RuntimeError("serve_with() was not called")
    _judging.drain()
