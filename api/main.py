"""The gateway: accepts photos and answers questions. It knows no torch and decodes no image."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from api import auth, problems
from api.admission import Admission
from api.deps import Gateway
from api.headers import AnswerHeaders
from api.looks import Looks
from api.news import News
from api.rates import Rates
from api.routes import (
    audit,
    batches,
    exports,
    inspections,
    keys,
    operations,
    predict,
    products,
    reviews,
    shadows,
    stream,
    thresholds,
    uploads,
    webhooks,
)
from api.stream import Stream
from api.waiting import Waiting
from api.web import pages
from shared.logs import configure_logging
from shared.queue import DELIVER, DELIVER_QUEUE, FINISHED, REVOKED, Ringer, celery_app
from shared.settings import get_settings
from shared.storage import storage

_DESCRIPTION = """
Visual inspection of parts: submit a photo, get good or defective with a probability, a Grad-CAM
overlay, and the second opinion of an autoencoder. Where the two disagree, a person decides.

Errors are RFC 9457 problem documents with a stable `code`.
"""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = get_settings()
    # Clients are made here, before request threads could make them twice.
    storage()
    celery_app()
    gateway = Gateway(
        settings,
        Ringer(),
        Ringer(queue=DELIVER_QUEUE, task=DELIVER),
        Waiting(),
        Stream(),
        Admission(settings),
        Rates(settings),
        Looks(),
    )

    def finished(ids: list[str]) -> None:
        gateway.waiting.wake(ids)
        gateway.stream.note(ids)

    def revoked(key_ids: list[str]) -> None:
        auth.forget(key_ids)
        gateway.stream.forget(key_ids)

    readers = {FINISHED: finished, REVOKED: revoked}
    news = News(settings.redis_url, readers, after_gap=gateway.stream.catch_up)
    tasks = (gateway.waiting, gateway.stream, gateway.door, gateway.rates, news)
    app.state.gateway = gateway
    gateway.bell.start()
    gateway.deliverers.start()
    for task in tasks:
        await task.start()
    yield
    for task in tasks:
        await task.stop()
    gateway.bell.stop()
    gateway.deliverers.stop()


def make_app() -> FastAPI:
    # Factories have no internet: the documentation page brings its own scripts.
    app = FastAPIOffline(
        title="DefectScope",
        version="0.1.0",
        description=_DESCRIPTION,
        # The other page asks a foreign host for a logo, and its search for a script from nowhere.
        redoc_url=None,
        lifespan=_lifespan,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    problems.install(app)
    build = app.build_middleware_stack
    # Around everything: Starlette answers to surprises (500) outside of what is added to it.
    app.build_middleware_stack = lambda: AnswerHeaders(  # type: ignore[method-assign]
        build(), is_https=(get_settings().public_url or "").startswith("https://")
    )
    for module in (
        *(exports, inspections, batches, uploads, predict, stream, reviews),
        *(products, thresholds, shadows, keys, webhooks, audit, operations),
    ):
        app.include_router(module.router)
    pages.install(app)

    app.webhooks.include_router(webhooks.messages)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        return problems.describe(generate())

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def main() -> None:
    """Serve until SIGTERM; requests in flight get five seconds to finish."""
    settings = get_settings()
    configure_logging(settings, process="api")
    uvicorn.run(
        "api.main:make_app",
        factory=True,
        workers=settings.api_processes,
        http="api.protocol:PacedProtocol",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        proxy_headers=True,
    )


if __name__ == "__main__":
    main()
