"""An audit log that only grows; limits of a key; pictures that are kept for a while."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
            name=op.f("fk_audit_entries_organisation_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index(
        op.f("ix_audit_entries_organisation_id_id"), "audit_entries", ["organisation_id", "id"]
    )
    op.execute(
        "CREATE FUNCTION refuse_to_rewrite_history() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the audit log is only appended to'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_only_grow BEFORE UPDATE OR DELETE ON audit_entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history()"
    )
    op.add_column("api_keys", sa.Column("requests_per_second", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("max_queued", sa.Integer(), nullable=True))
    op.add_column("products", sa.Column("retention_days", sa.Integer(), nullable=True))
    op.create_check_constraint(
        op.f("ck_products_retention_is_a_time"), "products", "retention_days > 0"
    )
    op.add_column(
        "inspections",
        sa.Column("pictures_deleted_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index(
        "ix_inspections_retention",
        "inspections",
        ["product_id", "finished_at"],
        postgresql_where=sa.text("finished_at IS NOT NULL AND pictures_deleted_at IS NULL"),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])


def downgrade() -> None:
    op.drop_index(op.f("ix_idempotency_keys_created_at"), table_name="idempotency_keys")
    op.drop_index("ix_inspections_retention", table_name="inspections")
    op.drop_column("inspections", "pictures_deleted_at")
    op.drop_column("products", "retention_days")
    op.drop_column("api_keys", "max_queued")
    op.drop_column("api_keys", "requests_per_second")
    op.drop_table("audit_entries")
    op.execute("DROP FUNCTION refuse_to_rewrite_history()")
