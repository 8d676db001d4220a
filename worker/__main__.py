"""The worker process: loads and warms the models, then lets Celery take bells.

SIGTERM finishes the batches in work and takes no more. Any death is harmless:
leases run out and the photos go to another worker.
"""

import os
import socket
import time
import warnings

import structlog
import torch
from celery.platforms import SecurityWarning
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from shared.errors import Unavailable
from shared.logs import configure_logging
from shared.queue import DELIVER, DELIVER_QUEUE, QUEUE, Ringer, celery_app
from shared.settings import get_settings
from shared.storage import storage
from worker import tasks
from worker.decoding import Decoder
from worker.judging import Judging
from worker.leases import Leases
from worker.models import Models
from worker.rounds import Rounds
from worker.tidying import Tidying
from worker.upkeep import Upkeep

log = structlog.stdlib.get_logger()


def main() -> None:
    settings = get_settings()
    configure_logging(settings, process="worker")
    worker = f"worker:{socket.gethostname()}-{os.getpid()}"
    storage()
    decoder = Decoder()
    decoder.warm()
    started = time.perf_counter()
    models = Models(settings)
    _load(models)
    if not any(name.startswith("torch") for name in models.engine_names):
        # What is left to torch beside the engine is small, and its threads spin while they wait.
        torch.set_num_threads(1)
    log.info(
        "models_warm", engines=models.engine_names, seconds=round(time.perf_counter() - started, 1)
    )

    leases = Leases(settings, worker)
    deliverers = Ringer(queue=DELIVER_QUEUE, task=DELIVER)
    judging = Judging(settings, models, leases, decoder, deliverers, worker)
    upkeep = Upkeep(settings, models, worker)
    tidying = Tidying(settings, worker).rounds
    looks = [
        Rounds("look", judging.look, pause_seconds=settings.upkeep_seconds)
        for _ in range(settings.slots)
    ]
    # Apart from the upkeep: who loads a model for a while is alive, and sweeps.
    loading = Rounds("loading", models.look, pause_seconds=settings.upkeep_seconds)
    tasks.serve_with(judging)

    @setup_logging.connect(weak=False)
    def keep_ours(**_: object) -> None:
        """Whoever listens here keeps Celery from setting up logging of its own."""

    @worker_ready.connect(weak=False)
    def tell(**_: object) -> None:
        log.info(
            "worker_ready",
            slots=settings.slots,
            batch_size=settings.batch_size or models.batch_size,
        )

    @worker_shutting_down.connect(weak=False)
    def stop(**_: object) -> None:
        judging.stop()

    # Before Celery, which waits for Redis: what is queued is judged without it, too.
    deliverers.start()
    leases.start()
    upkeep.start()
    loading.start()
    tidying.start()
    for look in looks:
        look.start()
    # It warns of root because of pickle; our messages are JSON and have no content.
    warnings.simplefilter("ignore", SecurityWarning)
    celery_app().worker_main(
        [
            "--quiet",
            "worker",
            "--pool=threads",
            f"--concurrency={settings.slots}",
            f"--queues={QUEUE}",
            f"--hostname={worker.removeprefix('worker:')}",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
        ]
    )
    # Celery returns when the last task is done.
    for look in looks:
        look.stop(wait_seconds=settings.lease_seconds)
    tidying.stop()
    loading.stop()
    upkeep.stop()
    leases.stop()
    deliverers.stop()
    decoder.stop()
    log.info("worker_stopped")


def _load(models: Models) -> None:
    """Load the active versions; a database or storage that is still starting is waited for."""
    while True:
        try:
            models.refresh()
        except Unavailable as error:
            log.warning("waiting_for_the_world", error=str(error))
            time.sleep(1)
        else:
            return


if __name__ == "__main__":
    main()
