"""The Celery app, its doorbells, and the wake-ups for callers who wait.

A bell says only "there is work": it names no inspection, it may be lost or
doubled, and a few of them are enough for any number of photos. Nothing here is
ever on the path of a request: a stopped Redis blocks a publisher for seconds.
"""

import threading
from collections.abc import Iterable
from functools import lru_cache

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from shared.settings import Settings, get_settings

log = structlog.stdlib.get_logger()

QUEUE = "inspect"
JUDGE = "defectscope.judge"
"""Name of the task that claims and judges whatever is queued."""
DELIVER_QUEUE = "deliver"
DELIVER = "defectscope.deliver"
"""Name of the task that sends whatever webhooks are due."""
FINISHED = "defectscope.finished"
"""Channel on which ids of finished inspections are told, separated by spaces."""
REVOKED = "defectscope.revoked"
"""Channel on which ids of revoked keys are told."""

_MOST_BELLS = 8
"""More unheard bells than this wake nobody sooner."""
_REST_SECONDS = 0.02
"""After a bell. The first photo of many is rung for at once; workers that are awake find the rest
without a bell."""
_PAUSE_SECONDS = 1.0
"""How long the circuit stays open after Redis failed."""

_SOCKET = {"socket_timeout": 2, "socket_connect_timeout": 2}


def make_celery(settings: Settings) -> Celery:
    """The Celery app of this process. Tasks are registered by worker/tasks.py."""
    app = Celery("defectscope", broker=settings.redis_url)
    app.conf.update(
        task_default_queue=QUEUE,
        # The row is the truth: no result, no acknowledgement after the work, no retry.
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=dict(_SOCKET, retry_on_timeout=False, max_retries=0),
        redis_socket_timeout=_SOCKET["socket_timeout"],
        redis_socket_connect_timeout=_SOCKET["socket_connect_timeout"],
        accept_content=["json"],
        task_serializer="json",
    )
    return app


@lru_cache(maxsize=1)
def celery_app() -> Celery:
    return make_celery(get_settings())


@lru_cache(maxsize=1)
def redis_client() -> redis.Redis:
    """Redis of this process, with every wait bounded to two seconds."""
    return redis.Redis.from_url(get_settings().redis_url, **_SOCKET)


class Ringer:
    """Rings those who hear a queue from a thread of its own, behind a circuit breaker.

    `ring` only sets a flag, so calls that come close together, or while Redis
    is slow or away, merge into one bell. After a failure the circuit stays open for a second;
    the wish is kept and tried again. What is lost with the process, they find when they look.
    """

    def __init__(self, *, queue: str = QUEUE, task: str = JUDGE) -> None:
        self._queue = queue
        self._task = task
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name="ringer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def ring(self) -> None:
        """Ask for a bell. Never blocks, never raises."""
        self._wanted.set()

    def _run(self) -> None:
        while True:
            self._wanted.wait()
            if self._stopped.is_set():
                return
            self._wanted.clear()
            try:
                if redis_client().llen(self._queue) < _MOST_BELLS:
                    celery_app().send_task(self._task, queue=self._queue, ignore_result=True)
            except (redis.RedisError, OperationalError, OSError) as error:
                if not self._is_open:
                    log.warning("bell_failed", error=str(error))
                self._is_open = True
                self._wanted.set()
                self._stopped.wait(_PAUSE_SECONDS)
            except Exception:
                # This thread must outlive any surprise.
                log.exception("bell_failed")
                self._stopped.wait(_PAUSE_SECONDS)
            else:
                if self._is_open:
                    log.info("bell_works_again")
                self._is_open = False
                self._stopped.wait(_REST_SECONDS)


def tell_finished(ids: Iterable[str]) -> None:
    """Wake the callers who wait for these inspections; if that fails, they look themselves."""
    try:
        redis_client().publish(FINISHED, " ".join(ids))
    except (redis.RedisError, OSError) as error:
        log.warning("wake_up_failed", error=str(error))


def tell_revoked(key_id: str) -> None:
    """Have every gateway forget the key; if that fails, they forget it by themselves."""
    try:
        redis_client().publish(REVOKED, key_id)
    except (redis.RedisError, OSError) as error:
        log.warning("revocation_not_told", error=str(error))


def check_queue() -> None:
    """Raise redis.RedisError unless Redis answers."""
    redis_client().ping()
