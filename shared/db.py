"""The database: one engine per process, and visible transactions.

`with transaction() as session:` commits at its end or rolls back; what must
happen after the commit (ring, publish, answer) stands after the block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from shared.errors import DatabaseUnavailable
from shared.settings import get_settings


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The engine of this process. Every wait on it is bounded."""
    return create_engine(
        get_settings().database_url,
        pool_size=10,
        max_overflow=5,
        pool_timeout=3,
        # A pooled connection may have died with the server; the ping costs 0.1 ms.
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 3,
            "application_name": "defectscope",
            "options": "-c statement_timeout=15000 -c idle_in_transaction_session_timeout=60000",
            "keepalives_idle": 10,
            "keepalives_interval": 3,
            "keepalives_count": 3,
            "tcp_user_timeout": 10000,
        },
    )


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
