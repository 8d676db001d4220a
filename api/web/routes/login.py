"""Logging in to the pages with a key, and out."""

import re
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from api.auth import COOKIE
from api.web.rendering import page
from api.web.visiting import Anybody, PageRoute, read_form
from shared import sessions
from shared.db import transaction
from shared.errors import Forbidden, Unauthenticated

_OWN_PATH = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/login")
async def show(request: Request, next: str = "/") -> Response:  # noqa: A002 - the query's word
    return page(request, "login.html", next=_own_path(next), error="")


@router.post("/login")
async def log_in(request: Request) -> Response:
    """The key becomes a cookie that scripts cannot read."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        raise Forbidden("Log in from our own page.", code="wrong_page")
    form = await read_form(request)
    following = _own_path(form.get("next", ["/"])[0])
    key = form.get("key", [""])[0].strip()
    try:
        token = await run_in_threadpool(_log_in, key, request.cookies.get(COOKIE))
    except Unauthenticated as error:
        return page(
            request,
            "login.html",
            status=HTTPStatus.UNAUTHORIZED,
            next=following,
            error=str(error),
        )
    answer = RedirectResponse(following, HTTPStatus.SEE_OTHER)
    answer.set_cookie(
        COOKIE,
        token,
        max_age=int(sessions.LIFE.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def log_out(request: Request, _: Anybody) -> Response:
    with transaction() as session:
        sessions.log_out(session, request.cookies[COOKIE])
    answer = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(COOKIE)
    return answer


def _log_in(key: str, before: str | None) -> str:
    """A new session; the one that this browser had ends with it."""
    with transaction() as session:
        token = sessions.log_in(session, key)
        if before:
            sessions.log_out(session, before)
        return token


def _own_path(address: str) -> str:
    """The path of one of our pages: a link must not lead from our login to somewhere else."""
    # Browsers take a backslash for a slash and drop control characters.
    return address if _OWN_PATH.fullmatch(address) else "/"
