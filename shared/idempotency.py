"""Idempotency keys: the same submission sent twice is one inspection.

The key is written in the transaction that accepts the photo, so a crash leaves
both or neither. It belongs to the API key that sent it, and to the payload.
"""

from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from json import dumps
from typing import Any

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.errors import InvalidInput
from shared.tables import IdempotencyKey

LIFE = timedelta(hours=24)


def payload_digest(image_sha256: str, fields: Mapping[str, Any]) -> str:
    """Digest of what was submitted: the photo's bytes and every field beside it."""
    canonical = dumps({"image": image_sha256, **fields}, sort_keys=True, default=str)
    return sha256(canonical.encode()).hexdigest()


def find(session: Session, *, api_key_id: str, key: str, payload_sha256: str) -> str | None:
    """The inspection that this key made already, or None.

    Raises InvalidInput if the key came with another payload before.
    """
    row = session.scalar(
        select(IdempotencyKey).where(
            IdempotencyKey.api_key_id == api_key_id,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at > func.now() - LIFE,
        )
    )
    if row is None:
        return None
    if row.payload_sha256 != payload_sha256:
        raise InvalidInput(
            "This Idempotency-Key came with another photo or other fields before; "
            "send a new key for a new submission.",
            code="idempotency_key_reused",
            field="Idempotency-Key",
        )
    return row.inspection_id


def forget_old(session: Session, *, limit: int = 1000) -> bool:
    """Delete keys that no longer count, at most `limit`; True if there may be more."""
    old = (
        select(IdempotencyKey.api_key_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at <= func.now() - LIFE)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    pair = tuple_(IdempotencyKey.api_key_id, IdempotencyKey.key)
    gone = session.scalars(
        delete(IdempotencyKey)
        .where(pair.in_(old))
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    ).all()
    return len(gone) == limit


def remember(
    session: Session, *, api_key_id: str, key: str, payload_sha256: str, inspection_id: str
) -> bool:
    """Bind the key to a new inspection; False if another request was first.

    Waits for a request that is writing the same key at this moment.
    """
    session.execute(
        delete(IdempotencyKey).where(
            IdempotencyKey.api_key_id == api_key_id,
            IdempotencyKey.key == key,
            IdempotencyKey.created_at <= func.now() - LIFE,
        )
    )
    inserted = session.execute(
        insert(IdempotencyKey)
        .values(
            api_key_id=api_key_id,
            key=key,
            payload_sha256=payload_sha256,
            inspection_id=inspection_id,
        )
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    ).one_or_none()
    return inserted is not None
