"""A page of a lot is read in order from its index, however large the lot and however old."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_inspections_lot", "inspections")
    op.create_index(
        "ix_inspections_lot", "inspections", ["organisation_id", "lot", "created_at", "id"]
    )


def downgrade() -> None:
    op.drop_index("ix_inspections_lot", "inspections")
    op.create_index("ix_inspections_lot", "inspections", ["organisation_id", "lot"])
