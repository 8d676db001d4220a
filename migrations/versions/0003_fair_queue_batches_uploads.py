"""A queue that is fair between sources; batches; direct uploads."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _moment(name: str, *, has_default: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("now()") if has_default else None,
        nullable=False,
    )


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        _moment("created_at", has_default=True),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_batches_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
    )
    op.add_column(
        "inspections", sa.Column("source", sa.String(), server_default="", nullable=False)
    )
    op.add_column("inspections", sa.Column("batch_id", sa.String(), nullable=True))
    op.create_foreign_key(
        op.f("fk_inspections_batch_id"), "inspections", "batches", ["batch_id"], ["id"]
    )
    op.create_index(
        "ix_inspections_batch",
        "inspections",
        ["batch_id", "id"],
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.drop_index("ix_inspections_queue", table_name="inspections")
    op.create_index(
        "ix_inspections_queue",
        "inspections",
        [sa.text("priority DESC"), "source", "created_at"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        _moment("created_at", has_default=True),
        _moment("expires_at"),
        sa.Column("inspection_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_uploads_inspection_id")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"], ["organisations.id"], name=op.f("fk_uploads_organisation_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_index(
        op.f("ix_uploads_expires_at"),
        "uploads",
        ["expires_at"],
        postgresql_where=sa.text("inspection_id IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("uploads")
    op.drop_index("ix_inspections_queue", table_name="inspections")
    op.create_index(
        "ix_inspections_queue",
        "inspections",
        [sa.text("priority DESC"), "created_at"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.drop_index("ix_inspections_batch", table_name="inspections")
    op.drop_constraint(op.f("fk_inspections_batch_id"), "inspections", type_="foreignkey")
    op.drop_column("inspections", "batch_id")
    op.drop_column("inspections", "source")
    op.drop_table("batches")
