"""Keys over HTTP: create (shown once), list, revoke."""

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from api import auth
from api.auth import FIRST, Admin
from api.bodies import described, reading
from api.key_schemas import KeyIn, KeyOut, KeysOut, NewKeyOut
from api.problems import responses
from shared import keys
from shared.db import transaction
from shared.errors import InvalidInput, NotFound
from shared.queue import tell_revoked

router = APIRouter(prefix="/v1/keys", tags=["keys"], dependencies=[FIRST])


@router.post(
    "",
    status_code=201,
    response_model=NewKeyOut,
    summary="Create a key",
    responses=responses(400, 401, 403, 413, 422, 429, 503),
    openapi_extra=described(KeyIn),
)
def create(caller: Admin, asked: Annotated[KeyIn, Depends(reading(KeyIn))]) -> NewKeyOut:
    """The key is in this answer and nowhere else."""
    if asked.expires_at is not None and asked.expires_at <= datetime.now(UTC):
        raise InvalidInput("This moment has passed already.", field="expires_at")
    with transaction() as session:
        row, key = keys.create_key(
            session,
            organisation_id=caller.organisation_id,
            name=asked.name,
            scopes=asked.scopes,
            actor=caller.key_id,
            expires_at=asked.expires_at,
            requests_per_second=asked.requests_per_second,
            max_queued=asked.max_queued,
        )
        session.refresh(row)
        return NewKeyOut(**KeyOut.of(row).model_dump(), key=key)


@router.get("", response_model=KeysOut, summary="All keys", responses=responses(401, 403, 429, 503))
def list_keys(caller: Admin) -> KeysOut:
    """Oldest first, with those that are expired and the last 1,000 revoked; never their secrets."""
    with transaction() as session:
        rows = keys.list_keys(session, caller.organisation_id)
        return KeysOut(keys=[KeyOut.of(row) for row in rows])


@router.delete(
    "/{key_id}",
    status_code=204,
    summary="Revoke a key",
    responses=responses(401, 403, 404, 429, 503),
)
def revoke(key_id: Annotated[str, Path(description="`key_…`")], caller: Admin) -> Response:
    """At once, for good. Revoking it again is fine."""
    if not re.fullmatch(r"key_[0-9a-z]{8,32}", key_id):
        raise NotFound("There is no such key.")
    with transaction() as session:
        keys.revoke_key(
            session, organisation_id=caller.organisation_id, key_id=key_id, actor=caller.key_id
        )
    auth.forget([key_id])
    tell_revoked(key_id)
    return Response(status_code=204)
