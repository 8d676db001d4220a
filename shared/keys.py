"""API keys: `ds_<id>_<secret>`. Only the hash of the secret is stored."""

import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from shared import audit
from shared.audit import Action
from shared.errors import InvalidInput, NotFound, Unauthenticated
from shared.ids import new_id
from shared.tables import ApiKey, Organisation, Scope

_FORM = re.compile(r"ds_([0-9a-z]{8,32})_([0-9A-Za-z_-]{32,128})")

MOST_KEYS = 1_000
"""Of one organisation that are not revoked: they are listed at once."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    key_id: str
    organisation_id: str
    scopes: frozenset[Scope]
    requests_per_second: int | None = None
    max_queued: int | None = None
    """Both: None for what the settings say."""

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


VALID = (
    ApiKey.revoked_at.is_(None),
    or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
)


def new_key() -> str:
    """A fresh key in full; its secret part has 256 random bits."""
    return f"ds_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


def parse(key: str) -> tuple[str, str]:
    """Id of the row and secret of a key. Raises InvalidInput for any other form."""
    match = _FORM.fullmatch(key)
    if match is None:
        raise InvalidInput(
            "A key has the form ds_<id>_<secret>: 8 to 32 digits and lower-case letters, "
            "then at least 32 of A-Z a-z 0-9 _ -.",
            field="key",
        )
    return f"key_{match[1]}", match[2]


def create_key(
    session: Session,
    *,
    organisation_id: str,
    name: str,
    scopes: frozenset[Scope],
    actor: str,
    expires_at: datetime | None = None,
    requests_per_second: int | None = None,
    max_queued: int | None = None,
    key: str | None = None,
) -> tuple[ApiKey, str]:
    """Store a key and return its row and, this once, the key in full.

    `key` takes one that was made elsewhere (the first admin key). Raises InvalidInput for that, and
    for more than `MOST_KEYS` that are not revoked.
    """
    key = key or new_key()
    id_, secret = parse(key)
    # One after another, so that two at once do not both fit in.
    session.execute(
        select(Organisation.id).where(Organisation.id == organisation_id).with_for_update()
    )
    if session.scalars(select(func.count()).where(*_live(organisation_id))).one() >= MOST_KEYS:
        raise InvalidInput(
            f"There are {MOST_KEYS:,} keys already; revoke one first.", code="too_many_keys"
        )
    row = ApiKey(
        id=id_,
        organisation_id=organisation_id,
        name=name,
        secret_sha256=sha256(secret.encode()).hexdigest(),
        scopes=sorted(scopes),
        expires_at=expires_at,
        requests_per_second=requests_per_second,
        max_queued=max_queued,
    )
    session.add(row)
    session.flush()
    audit.note(
        session,
        organisation_id=organisation_id,
        actor=actor,
        action=Action.KEY_CREATED,
        subject=row.id,
        name=name,
        scopes=row.scopes,
        expires_at=expires_at.isoformat() if expires_at else None,
        requests_per_second=requests_per_second,
        max_queued=max_queued,
    )
    return row, key


def authenticate(session: Session, key: str) -> Caller:
    """The caller behind a key. Raises Unauthenticated, without saying what is wrong with it."""
    refusal = Unauthenticated("The API key is unknown, expired or revoked.")
    match = _FORM.fullmatch(key)
    if match is None:
        raise refusal
    row = session.scalar(select(ApiKey).where(ApiKey.id == f"key_{match[1]}", *VALID))
    given = sha256(match[2].encode()).hexdigest()
    if row is None or not hmac.compare_digest(row.secret_sha256, given):
        raise refusal
    return caller_of(row)


def caller_of(row: ApiKey) -> Caller:
    """Who calls with this key."""
    return Caller(
        row.id,
        row.organisation_id,
        frozenset(Scope(scope) for scope in row.scopes),
        row.requests_per_second,
        row.max_queued,
    )


def list_keys(session: Session, organisation_id: str) -> list[ApiKey]:
    """Oldest first; of those that are revoked, the last `MOST_KEYS`."""
    live = session.scalars(select(ApiKey).where(*_live(organisation_id)))
    revoked = session.scalars(
        select(ApiKey)
        .where(ApiKey.organisation_id == organisation_id, ApiKey.revoked_at.is_not(None))
        .order_by(ApiKey.revoked_at.desc())
        .limit(MOST_KEYS)
    )
    return sorted((*live, *revoked), key=lambda row: (row.created_at, row.id))


def _live(organisation_id: str) -> tuple[ColumnElement[bool], ...]:
    return ApiKey.organisation_id == organisation_id, ApiKey.revoked_at.is_(None)


def revoke_key(session: Session, *, organisation_id: str, key_id: str, actor: str) -> None:
    """Make a key useless; the caller commits, then tells the gateways (`queue.tell_revoked`).

    Revoking twice is fine. Raises NotFound.
    """
    row = session.scalar(
        select(ApiKey)
        .where(ApiKey.organisation_id == organisation_id, ApiKey.id == key_id)
        .with_for_update()
    )
    if row is None:
        raise NotFound(f"There is no key {key_id}.")
    if row.revoked_at is None:
        row.revoked_at = func.now()
        audit.note(
            session,
            organisation_id=organisation_id,
            actor=actor,
            action=Action.KEY_REVOKED,
            subject=key_id,
        )


def first_organisation(session: Session) -> Organisation:
    """The organisation that a fresh installation starts with, made if it is missing."""
    row = session.scalar(select(Organisation).order_by(Organisation.created_at).limit(1))
    if row is None:
        row = Organisation(id=new_id("org"), name="default")
        session.add(row)
        session.flush()
    return row
