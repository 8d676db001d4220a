"""Alembic's entry: runs the migrations over the connection that `upgrade` passes in."""

from alembic import context
from sqlalchemy import Connection

from shared import webhook_tables  # noqa: F401 - the rest of the tables
from shared.tables import Table

_connection: Connection = context.config.attributes["connection"]
context.configure(
    connection=_connection,
    target_metadata=Table.metadata,
    transaction_per_migration=True,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
