"""Sessions of the pages: who logged in to a browser with which key.

The cookie holds a random token and the table its hash. A session is worth what its key is worth:
revoked or expired, it opens nothing.
"""

import hmac
import secrets
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from shared import keys
from shared.errors import Unauthenticated
from shared.keys import Caller
from shared.tables import ApiKey, WebSession

LIFE = timedelta(hours=12)
"""One shift, and some."""


@dataclass(frozen=True)
class Visitor:
    """Who looks at a page."""

    caller: Caller
    name: str
    """Of the key."""


def log_in(session: Session, key: str) -> str:
    """A token for the cookie. Raises Unauthenticated."""
    caller = keys.authenticate(session, key)
    token = secrets.token_urlsafe(32)
    session.add(
        WebSession(
            token_sha256=_hash(token),
            api_key_id=caller.key_id,
            expires_at=session.scalars(select(func.now() + LIFE)).one(),
        )
    )
    session.flush()
    return token


def log_out(session: Session, token: str) -> None:
    session.execute(delete(WebSession).where(WebSession.token_sha256 == _hash(token)))


def find(session: Session, token: str) -> Visitor:
    """Whose session this is. Raises Unauthenticated where it has ended."""
    row = session.scalar(
        select(ApiKey)
        .join(WebSession, WebSession.api_key_id == ApiKey.id)
        .where(
            WebSession.token_sha256 == _hash(token),
            WebSession.expires_at > func.now(),
            *keys.VALID,
        )
    )
    if row is None:
        raise Unauthenticated("The session has ended; log in again.")
    return Visitor(keys.caller_of(row), row.name)


def csrf_of(token: str) -> str:
    """What a page of this session sends back with every change, so that no other page can."""
    return sha256(b"csrf " + _bytes(token)).hexdigest()


def is_from_own_page(token: str, sent: str) -> bool:
    return hmac.compare_digest(csrf_of(token).encode(), _bytes(sent))


def forget_old(session: Session) -> None:
    session.execute(delete(WebSession).where(WebSession.expires_at < func.now()))


def _hash(token: str) -> str:
    return sha256(_bytes(token)).hexdigest()


def _bytes(sent: str) -> bytes:
    # Anybody can send anything, lone surrogates too: those are as wrong as any other guess.
    return sent.encode(errors="surrogatepass")
