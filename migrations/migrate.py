"""Run the migrations from Python: there is no alembic.ini, the connection comes from us."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

_LOCK = 0x0DEFEC75
"""Advisory lock: of two migrations started at once, the second waits and finds nothing to do."""


def config(connection: Connection) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).parent))
    settings.attributes["connection"] = connection
    return settings


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema to `revision`, in one transaction a migration."""
    with engine.connect() as connection:
        # A migration, or waiting for another one, may take longer than any query of the service.
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.commit()
        try:
            command.upgrade(config(connection), revision)
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()


def downgrade(engine: Engine, revision: str) -> None:
    with engine.connect() as connection:
        command.downgrade(config(connection), revision)


def check(engine: Engine) -> None:
    """Raise unless the tables are what `shared/tables.py` says (as `alembic check`)."""
    with engine.connect() as connection:
        command.check(config(connection))
