"""The pages, all together, and the static files that they use."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from api.web.rendering import STATIC
from api.web.routes import analyze, inspections, keys, login, models, review, webhooks

_ROUTERS: tuple[APIRouter, ...] = (
    login.router,
    analyze.router,
    review.router,
    inspections.router,
    models.router,
    webhooks.router,
    keys.router,
)


class _KeptStatic(StaticFiles):
    """Their addresses change with their content: see `asset` in rendering.py."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        answer = super().file_response(*args, **kwargs)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


def install(app: FastAPI) -> None:
    app.mount("/assets", _KeptStatic(directory=Path(STATIC)), name="assets")
    for router in _ROUTERS:
        app.include_router(router)
