"""Logging: a constant event and its facts as fields, on standard error.

Console format is for people, JSON for machines; library loggers go through the
same renderer.
"""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor

from shared.settings import Settings


def configure_logging(settings: Settings, *, process: str) -> None:
    """Send every log line of this process to standard error, named after `process`."""

    def name_process(_: object, __: str, event: EventDict) -> EventDict:
        # Not a context variable: threads start with an empty context.
        event["process"] = process
        return event

    shared: list[Processor] = [
        name_process,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(
            fmt="iso" if settings.log_format == "json" else "%H:%M:%S", utc=True
        ),
    ]
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=24,
                # The default shows the locals of every frame: keys and photos.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # Libraries that tell every step at info level; their warnings still come through.
    for noisy in ("botocore", "urllib3", "httpx", "kombu", "celery", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
