"""A page of a lot is read in order from its index, however large the lot and however old."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


_NEW = "ix_inspections_lot_new"


def upgrade() -> None:
    # Over millions of rows it takes minutes, in which photos are accepted and judged.
    with op.get_context().autocommit_block():
        # One that was broken off is there, but unfinished.
        op.drop_index(_NEW, "inspections", if_exists=True, postgresql_concurrently=True)
        op.create_index(
            _NEW,
            "inspections",
            ["organisation_id", "lot", "created_at", "id"],
            postgresql_concurrently=True,
        )
    op.drop_index("ix_inspections_lot", "inspections")
    op.execute(f"ALTER INDEX {_NEW} RENAME TO ix_inspections_lot")


def downgrade() -> None:
    op.drop_index("ix_inspections_lot", "inspections")
    op.create_index("ix_inspections_lot", "inspections", ["organisation_id", "lot"])
