"""Who calls: `Authorization: Bearer ds_…` or `X-API-Key`."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from shared import keys
from shared.db import transaction
from shared.errors import Forbidden, Unauthenticated
from shared.keys import Caller
from shared.tables import Scope

_bearer = HTTPBearer(auto_error=False, description="An API key: `ds_<id>_<secret>`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


def _caller(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> Caller:
    key = bearer.credentials if bearer else header
    if not key:
        raise Unauthenticated("Send an API key: `Authorization: Bearer ds_…` or `X-API-Key: ds_…`.")
    with transaction() as session:
        return keys.authenticate(session, key)


def _requires(scope: Scope) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        if not caller.may(scope):
            raise Forbidden(f"This key lacks the scope {scope.value!r}.")
        return caller

    return check


Submitter = Annotated[Caller, Depends(_requires(Scope.SUBMIT))]
Reader = Annotated[Caller, Depends(_requires(Scope.READ))]
Admin = Annotated[Caller, Depends(_requires(Scope.ADMIN))]
