"""Who calls: `Authorization: Bearer ds_…` or `X-API-Key`.

A key that was valid a moment ago is not looked up again. Revoking it is told to every process over
Redis; where that is away it takes effect after `REMEMBERED_SECONDS`. Keys that were refused are
looked up each time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from hashlib import sha256
from threading import Lock
from typing import Annotated

from cachetools import TTLCache
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from api.deps import AppGateway
from shared import keys
from shared.db import transaction
from shared.errors import Forbidden, Unauthenticated
from shared.keys import Caller
from shared.tables import Scope

_bearer = HTTPBearer(auto_error=False, description="An API key: `ds_<id>_<secret>`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")

REMEMBERED_SECONDS = 2.0

_remembered: TTLCache[bytes, Caller] = TTLCache(maxsize=4096, ttl=REMEMBERED_SECONDS)
_remembering = Lock()


def forget(key_ids: Iterable[str]) -> None:
    """These keys were revoked: look them up again."""
    gone = frozenset(key_ids)
    with _remembering:
        for name in [name for name, caller in _remembered.items() if caller.key_id in gone]:
            del _remembered[name]


async def _caller(
    request: Request,
    gateway: AppGateway,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Caller:
    key = bearer.credentials if bearer else header
    if not key:
        raise Unauthenticated("Send an API key: `Authorization: Bearer ds_…` or `X-API-Key: ds_…`.")
    # By hash: secrets are not kept in memory.
    name = sha256(key.encode()).digest()
    with _remembering:
        caller = _remembered.get(name)
    if caller is None:
        caller = await run_in_threadpool(_authenticate, key)
        with _remembering:
            _remembered[name] = caller
    # Named before it is asked: a refusal tells the caller's limits as well.
    request.state.bucket = gateway.rates.of(caller)
    gateway.rates.take(caller)
    return caller


def _authenticate(key: str) -> Caller:
    with transaction() as session:
        return keys.authenticate(session, key)


def _requires(scope: Scope) -> Callable[[Caller], Awaitable[Caller]]:
    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if not caller.may(scope):
            raise Forbidden(f"This key lacks the scope {scope.value!r}.")
        return caller

    return check


FIRST = Depends(_caller)
"""Of a whole router: who has no key learns nothing, not even which ids could be."""
Submitter = Annotated[Caller, Depends(_requires(Scope.SUBMIT))]
Reader = Annotated[Caller, Depends(_requires(Scope.READ))]
Admin = Annotated[Caller, Depends(_requires(Scope.ADMIN))]


async def _looking(caller: Reader, gateway: AppGateway) -> AsyncIterator[Caller]:
    async with gateway.looks.place(caller):
        yield caller


Looker = Annotated[Caller, Depends(_looking)]
"""A reader with one of its few places, for what may read much of a table."""
