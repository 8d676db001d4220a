"""The database: one engine per process, and visible transactions.

`with transaction() as session:` commits at its end or rolls back; what must
happen after the commit (ring, publish, answer) stands after the block.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from shared.errors import DatabaseUnavailable
from shared.settings import get_settings

_IDLE_SECONDS = 1.0


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The engine of this process. Every wait on it is bounded."""
    made = create_engine(
        get_settings().database_url,
        pool_size=10,
        max_overflow=5,
        pool_timeout=3,
        # Errors are logged with their statement; what it was given may be a secret.
        hide_parameters=True,
        connect_args={
            "connect_timeout": 3,
            "application_name": "defectscope",
            # Wherever the server stands, moments are told in UTC.
            "options": "-c timezone=UTC -c statement_timeout=15000"
            " -c idle_in_transaction_session_timeout=60000",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 10000,
        },
    )
    event.listen(made, "checkin", _note_time)
    event.listen(made, "checkout", _ask_if_idle)
    return made


def _note_time(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used_at"] = time.monotonic()


def _ask_if_idle(
    connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """A pooled connection may have died with the server: one that was idle is asked first.

    SQLAlchemy's own ping asks each time, which costs a busy gateway as much as a query.
    """
    if time.monotonic() - record.info.get("used_at", math.inf) < _IDLE_SECONDS:
        return
    try:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except Exception as error:
        # The pool opens another one, and gives up if that is dead as well.
        raise DisconnectionError from error


@contextmanager
def transaction() -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or not at all.

    Raises DatabaseUnavailable where the database cannot be reached, is starting
    or stopping, or is too busy to give a connection in time.
    """
    try:
        with Session(engine(), expire_on_commit=False) as session, session.begin():
            yield session
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise DatabaseUnavailable("The database cannot be reached; try again shortly.") from error
    except DBAPIError as error:
        # A connection that dies in the middle is not always an OperationalError.
        if error.connection_invalidated:
            raise DatabaseUnavailable("The database went away; try again shortly.") from error
        raise


def check_database() -> None:
    """Raise DatabaseUnavailable unless a query comes back."""
    with transaction() as session:
        session.execute(text("SELECT 1"))
