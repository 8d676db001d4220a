"""A page of a lot is read in order from its index, however large the lot and however old."""

from alembic import op
from sqlalchemy import text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


_INDEX = "ix_inspections_lot"
_NEW = "ix_inspections_lot_new"


def upgrade() -> None:
    # Over millions of rows it takes minutes, in which photos are accepted and judged. Broken off
    # anywhere, it can be run again.
    with op.get_context().autocommit_block():
        # It waits for older transactions, of a backup too, and nobody waits for it.
        patience = op.get_bind().scalar(text("SHOW lock_timeout"))
        op.execute("SET lock_timeout = '1h'")
        op.drop_index(_NEW, "inspections", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            _NEW,
            "inspections",
            ["organisation_id", "lot", "created_at", "id"],
            postgresql_concurrently=True,
        )
        op.drop_index(_INDEX, "inspections", if_exists=True, postgresql_concurrently=True)
        op.execute(f"ALTER INDEX {_NEW} RENAME TO {_INDEX}")
        op.execute(f"SET lock_timeout = '{patience}'")


def downgrade() -> None:
    op.drop_index(_INDEX, "inspections")
    op.create_index(_INDEX, "inspections", ["organisation_id", "lot"])
