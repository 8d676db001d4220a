"""The deliverer process: posts webhooks. It knows no torch, and any number of them may run.

SIGTERM finishes what is in flight. Any death is harmless: what was not recorded is sent again.
"""

import os
import socket
import warnings

import structlog
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready

from shared.addresses import parse_networks
from shared.logs import configure_logging
from shared.queue import DELIVER_QUEUE, celery_app
from shared.settings import get_settings
from worker.deliver import tasks
from worker.deliver.delivering import Delivering

log = structlog.stdlib.get_logger()


def main() -> None:
    settings = get_settings()
    configure_logging(settings, process="deliverer")
    name = f"{socket.gethostname()}-{os.getpid()}"
    delivering = Delivering(
        name=f"deliverer:{name}",
        base_url=settings.base_url,
        allowed=parse_networks(settings.webhook_allowed_cidrs),
    )
    tasks.serve_with(delivering)

    @setup_logging.connect(weak=False)
    def keep_ours(**_: object) -> None:
        """Whoever listens here keeps Celery from setting up logging of its own."""

    @worker_ready.connect(weak=False)
    def tell(**_: object) -> None:
        log.info("deliverer_ready")

    # Before Celery, which waits for Redis: what is due is found without it, too.
    delivering.start()
    # It warns of root because of pickle; our messages are JSON and have no content.
    warnings.simplefilter("ignore", SecurityWarning)
    celery_app().worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            "--concurrency=1",
            f"--queues={DELIVER_QUEUE}",
            f"--hostname=deliverer-{name}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    delivering.stop()
    log.info("deliverer_stopped")


if __name__ == "__main__":
    main()
