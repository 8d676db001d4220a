"""Who looks at the pages: log in with a key, the cookie of a session, and what it opens.

A page route is an APIRoute whose errors are pages, too: who is not logged in is sent to do so.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from api.auth import COOKIE, check_page, count
from api.deps import AppGateway
from api.problems import field_errors, status_of
from api.web.rendering import page
from shared import sessions
from shared.db import transaction
from shared.errors import DefectScopeError, Forbidden, Malformed, TooLarge, Unauthenticated
from shared.sessions import Visitor
from shared.tables import Scope

_MOST_FORM_FIELDS = 200
_MOST_FORM_BYTES = 64 * 1024


class PageRoute(APIRoute):
    """Errors as pages, in the words of the API."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            # A form sends the fields that nobody filled in as well.
            given = parse_qs(request.scope["query_string"].decode("latin-1"))
            request.scope["query_string"] = urlencode(given, doseq=True).encode()
            try:
                return await handle(request)
            except Unauthenticated:
                return _to_log_in(request)
            except DefectScopeError as error:
                return page(
                    request,
                    "error.html",
                    status=status_of(error),
                    message=str(error),
                    code=error.code,
                )
            except RequestValidationError as error:
                entries = field_errors(error.errors())
                return page(
                    request,
                    "error.html",
                    status=HTTPStatus.UNPROCESSABLE_ENTITY,
                    message="; ".join(f"{one['field']}: {one['message']}" for one in entries),
                    code="invalid_input",
                )

        return handler


async def _visitor(request: Request, gateway: AppGateway) -> Visitor:
    token = request.cookies.get(COOKIE)
    if not token:
        raise Unauthenticated("Log in first.")
    visitor = await run_in_threadpool(_find, token)
    request.state.visitor, request.state.csrf = visitor, sessions.csrf_of(token)
    count(request, gateway, visitor.caller)
    if request.method == "POST":
        request.state.form = await read_form(request)
        check_page(request, token, request.state.form.get("csrf", [""])[0])
    return visitor


async def read_form(request: Request) -> dict[str, list[str]]:
    """The fields of a form, bounded. Raises TooLarge and Malformed."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM_BYTES:
            raise TooLarge("This form is too large.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FORM_FIELDS)
    except ValueError as error:
        raise Malformed("This form cannot be read.") from error


def _find(token: str) -> Visitor:
    with transaction() as session:
        return sessions.find(session, token)


def _requires(scope: Scope) -> Callable[[Visitor], Coroutine[Any, Any, Visitor]]:
    async def check(visitor: Annotated[Visitor, Depends(_visitor)]) -> Visitor:
        if not visitor.caller.may(scope):
            raise Forbidden(
                f"The key that you logged in with lacks the scope {scope.value!r} for this page."
            )
        return visitor

    return check


async def _looking(
    visitor: Annotated[Visitor, Depends(_requires(Scope.READ))], gateway: AppGateway
) -> AsyncIterator[Visitor]:
    async with gateway.looks.place(visitor.caller):
        yield visitor


Anybody = Annotated[Visitor, Depends(_visitor)]
"""Who is logged in, with whatever key."""
ReaderVisitor = Annotated[Visitor, Depends(_requires(Scope.READ))]
LookerVisitor = Annotated[Visitor, Depends(_looking)]
"""A reader with one of its few places, for what may read much of a table."""
ReviewerVisitor = Annotated[Visitor, Depends(_requires(Scope.REVIEW))]
AdminVisitor = Annotated[Visitor, Depends(_requires(Scope.ADMIN))]


def _to_log_in(request: Request) -> Response:
    if request.headers.get("HX-Request"):
        # A part of a page cannot show a login; the whole page goes there.
        return Response(status_code=204, headers={"HX-Redirect": "/login"})
    wanted = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/login?next={quote(wanted)}", HTTPStatus.SEE_OTHER)
