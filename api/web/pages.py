"""The pages, all together, and the static files that they use."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from api.problems import http_problem
from api.web.rendering import STATIC, page
from api.web.routes import analyze, how, inspections, keys, login, models, review, webhooks

_ROUTERS: tuple[APIRouter, ...] = (
    login.router,
    analyze.router,
    review.router,
    inspections.router,
    models.router,
    webhooks.router,
    keys.router,
    how.router,
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
    app.add_exception_handler(HTTPStatus.NOT_FOUND, _nothing_here)


def _nothing_here(request: Request, error: Exception) -> Response:
    """A page for people who mistyped an address; programs get a problem document, as everywhere."""
    is_person = "text/html" in request.headers.get("accept", "")
    if not is_person or request.url.path.startswith("/v1/"):
        return http_problem(request, error)
    return page(
        request,
        "error.html",
        status=HTTPStatus.NOT_FOUND,
        message="There is no page at this address.",
        code="not_found",
    )
