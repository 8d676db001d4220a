"""Logging in to the pages with a key, and out."""

import re
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.concurrency import run_in_threadpool

from api.auth import COOKIE
from api.deps import AppGateway
from api.web.rendering import page
from api.web.visiting import Anybody, PageRoute, read_form
from shared import sessions
from shared.db import transaction
from shared.errors import Forbidden, Unauthenticated

_OWN_PATH = re.compile(r"/(?!/)[^\\\x00-\x20\x7f]*")

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/login")
async def show(request: Request, next: str = "/") -> Response:  # noqa: A002 - the query's word
    return _login_page(request, next=_own_path(next), error="")


@router.post("/login")
async def log_in(request: Request, gateway: AppGateway) -> Response:
    """The key becomes a cookie that scripts cannot read."""
    if not _is_from_us(request, gateway.settings.public_url):
        raise Forbidden("Log in from our own page.", code="wrong_page")
    form = await read_form(request)
    following = _own_path(form.get("next", ["/"])[0])
    key = form.get("key", [""])[0].strip()
    try:
        token = await run_in_threadpool(_log_in, key, request.cookies.get(COOKIE))
    except Unauthenticated as error:
        return _login_page(
            request, status=HTTPStatus.UNAUTHORIZED, next=following, error=str(error)
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


def _login_page(request: Request, *, status: int = HTTPStatus.OK, **values: str) -> Response:
    answer = page(request, "login.html", status=status, **values)
    # Else the browser keeps to itself that the form comes from us.
    answer.headers["Referrer-Policy"] = "same-origin"
    return answer


def _is_from_us(request: Request, public_url: str | None) -> bool:
    """Whether no other page has sent the form, for a browser that says so. Over plain http they
    leave out Sec-Fetch-Site, but not where they come from.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None or origin is None:
        return site in {None, "same-origin", "none"}
    here = request.url.netloc
    ours = {f"http://{here}", f"https://{here}"}
    if public_url:
        parts = urlsplit(public_url)
        ours.add(f"{parts.scheme}://{parts.netloc}")
    return origin in ours


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
