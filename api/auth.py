"""Who calls: `Authorization: Bearer ds_…` or `X-API-Key`; from our pages, the cookie of a session.

A key that was valid a moment ago is not looked up again. Revoking it is told to every process over
Redis; where that is away it takes effect after `REMEMBERED_SECONDS`. Keys that were refused are
looked up each time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from hashlib import sha256
from threading import Lock
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from api.deps import AppGateway, Gateway
from shared import keys, sessions
from shared.db import transaction
from shared.errors import DefectScopeError, Forbidden, Unauthenticated
from shared.keys import Caller
from shared.tables import Scope

_bearer = HTTPBearer(auto_error=False, description="An API key: `ds_<id>_<secret>`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")

COOKIE = "defectscope"
CSRF_HEADER = "X-CSRF-Token"
_SAFE = frozenset({"GET", "HEAD"})

REMEMBERED_SECONDS = 2.0

_remembered: TTLCache[bytes, Caller] = TTLCache(maxsize=4096, ttl=REMEMBERED_SECONDS)
_remembering = Lock()


def forget(key_ids: Iterable[str]) -> None:
    """These keys were revoked: look them up again."""
    gone = frozenset(key_ids)
    with _remembering:
        for name in [name for name, caller in _remembered.items() if caller.key_id in gone]:
            del _remembered[name]


async def _identify(
    request: Request,
    gateway: AppGateway,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> None:
    """Note who calls for whoever asks later: FastAPI would go through all of this each time."""
    key = bearer.credentials if bearer else header
    if key:
        caller = await _remembered_or(key, _authenticate)
        request.state.look_up = partial(_authenticate, key)
    elif token := request.cookies.get(COOKIE):
        check_page(request, token, request.headers.get(CSRF_HEADER, ""))
        caller = await _remembered_or(token, _find_session)
        request.state.look_up = partial(_find_session, token)
    else:
        raise Unauthenticated("Send an API key: `Authorization: Bearer ds_…` or `X-API-Key: ds_…`.")
    count(request, gateway, caller)
    request.state.caller = caller


def check_page(request: Request, token: str, sent: str) -> None:
    """Raise Forbidden where a change does not come from one of our pages.

    A browser sends the cookie with whatever another site makes it ask for.
    """
    if request.method not in _SAFE and not sessions.is_from_own_page(token, sent):
        raise Forbidden(
            "This change did not come from a page of ours; load the page again.", code="wrong_page"
        )


def is_still_valid(request: Request) -> bool:
    """Whether the key or the session that let this request in lets in now. Blocks.

    Where the database is away it does: that says nothing about the key.
    """
    try:
        request.state.look_up()
    except Unauthenticated:
        return False
    except DefectScopeError:
        return True
    return True


def count(request: Request, gateway: Gateway, caller: Caller) -> None:
    """Take this request from the caller's rate. Raises TooMany."""
    # Named before it is asked: a refusal tells the caller's limits as well.
    request.state.bucket = gateway.rates.of(caller)
    gateway.rates.take(caller)


async def _remembered_or(secret: str, look_up: Callable[[str], Caller]) -> Caller:
    # By hash: secrets are not kept in memory.
    name = sha256(secret.encode()).digest()
    with _remembering:
        caller = _remembered.get(name)
    if caller is None:
        caller = await run_in_threadpool(look_up, secret)
        with _remembering:
            _remembered[name] = caller
    return caller


def _authenticate(key: str) -> Caller:
    with transaction() as session:
        return keys.authenticate(session, key)


def _find_session(token: str) -> Caller:
    with transaction() as session:
        return sessions.find(session, token).caller


def _requires(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    async def check(request: Request) -> Caller:
        caller: Caller = request.state.caller
        if not caller.may(scope):
            raise Forbidden(f"This key lacks the scope {scope.value!r}.")
        return caller

    return check


FIRST = Depends(_identify)
"""Of every router that asks who calls: who has no key learns nothing, not even which ids could be.
"""
Submitter = Annotated[Caller, Depends(_requires(Scope.SUBMIT))]
Reader = Annotated[Caller, Depends(_requires(Scope.READ))]
Reviewer = Annotated[Caller, Depends(_requires(Scope.REVIEW))]
Admin = Annotated[Caller, Depends(_requires(Scope.ADMIN))]


def _looking(scope: Scope) -> Callable[..., AsyncIterator[Caller]]:
    async def look(
        caller: Annotated[Caller, Depends(_requires(scope))], gateway: AppGateway
    ) -> AsyncIterator[Caller]:
        async with gateway.looks.place(caller):
            yield caller

    return look


Looker = Annotated[Caller, Depends(_looking(Scope.READ))]
"""A reader with one of its few places, for what may read much of a table."""
ReviewLooker = Annotated[Caller, Depends(_looking(Scope.REVIEW))]
