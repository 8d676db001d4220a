"""Run the migrations from Python: there is no alembic.ini, the connection comes from us."""

import logging
import time
from pathlib import Path

from alembic import command
from alembic.config import Config
from psycopg2.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from shared.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

_LOCK = 0x0DEFEC75
"""Advisory lock: of two migrations started at once, the second waits and finds nothing to do."""
_LOCK_WAIT = "3s"
"""All queries of a table stand behind one that waits for its exclusive lock, so it waits no longer
than they may."""
_LOOK_SECONDS = 0.2
_PAUSE_SECONDS = 3.0
_ATTEMPTS = 100


def config(connection: Connection) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision`, in one transaction a migration, while the service runs.

    A migration that does not get its lock lets the service's queries through and begins anew;
    raises DatabaseUnavailable if it never gets it.
    """
    with engine.connect() as connection:
        # A migration, or waiting for another one, may take longer than any query of the service.
        connection.execute(text("SET statement_timeout = 0"))
        # Asked again and again: a statement that waits is what an index that is built waits for.
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
            connection.commit()
            time.sleep(_LOOK_SECONDS)
        connection.commit()
        try:
            _upgrade(connection, revision)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.execute(text("RESET ALL"))
            connection.commit()


def _upgrade(connection: Connection, revision: str) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            connection.execute(text(f"SET lock_timeout = '{_LOCK_WAIT}'"))
            connection.commit()
            command.upgrade(config(connection), revision)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            connection.rollback()
            if attempt == _ATTEMPTS:
                raise DatabaseUnavailable(
                    "A migration never got the lock of its table: end the transactions that "
                    "pg_stat_activity shows as open for minutes, then migrate again."
                ) from error
            log.warning("waiting for the lock of a table", extra={"attempt": attempt})
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def downgrade(engine: Engine, revision: str) -> None:
    with engine.connect() as connection:
        command.downgrade(config(connection), revision)


def check(engine: Engine) -> None:
    """Raise unless the tables are what `shared/tables.py` says (as `alembic check`)."""
    with engine.connect() as connection:
        command.check(config(connection))
