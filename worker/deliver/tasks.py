"""The Celery task of deliverers. A bell has no arguments and no result."""

from shared.queue import DELIVER, celery_app
from worker.deliver.delivering import Delivering

_delivering: Delivering | None = None


def serve_with(delivering: Delivering) -> None:
    """Set what the task of this process wakes. Called once, before the deliverer starts."""
    global _delivering  # noqa: PLW0603 - Celery finds tasks by module, not by object
    _delivering = delivering


@celery_app().task(name=DELIVER)
def deliver() -> None:
    if _delivering is None:
        raise RuntimeError("serve_with() was not called")
    _delivering.wake()
