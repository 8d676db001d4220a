"""People decide: leases and decisions of reviews, audits, regions, sessions of the pages."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)
_EVENT = "uq_webhook_deliveries_event"
_EVENTS = "ck_webhook_deliveries_event"


def upgrade() -> None:
    op.create_table(
        "review_decisions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("organisation_id", sa.String(), nullable=False),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("defect_type", sa.String(), nullable=True),
        sa.Column("region", postgresql.JSONB(), nullable=True),
        sa.Column("comment", sa.String(), server_default="", nullable=False),
        sa.Column("at", _MOMENT, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.CheckConstraint(
            "verdict IN ('good', 'defective', 'undecidable')",
            name=op.f("ck_review_decisions_verdict"),
        ),
        sa.ForeignKeyConstraint(
            ["review_id"], ["reviews.id"], name=op.f("fk_review_decisions_review_id")
        ),
        sa.ForeignKeyConstraint(
            ["organisation_id"],
            ["organisations.id"],
            name=op.f("fk_review_decisions_organisation_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review_decisions")),
    )
    op.create_index(
        op.f("ix_review_decisions_review_id_id"), "review_decisions", ["review_id", "id"]
    )
    op.execute(
        "CREATE TRIGGER review_decisions_only_grow BEFORE UPDATE OR DELETE ON review_decisions"
        " FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_rewrite_history()"
    )

    op.drop_index(op.f("ix_reviews_organisation_id_status_created_at"), table_name="reviews")
    op.drop_column("reviews", "status")
    for column in (
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("is_on_line", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("lease_token", sa.String(), nullable=True),
        sa.Column("lease_until", _MOMENT, nullable=True),
        sa.Column("claimed_by", sa.String(), nullable=True),
        sa.Column("skipped_by", postgresql.ARRAY(sa.String()), server_default="{}", nullable=False),
        sa.Column("decided_at", _MOMENT, nullable=True),
        sa.Column("decision_id", sa.String(), nullable=True),
    ):
        op.add_column("reviews", column)
    op.execute(
        "UPDATE reviews SET priority = inspections.priority,"
        " is_on_line = inspections.line IS NOT NULL"
        " FROM inspections WHERE inspections.id = reviews.inspection_id"
    )
    op.alter_column("reviews", "priority", server_default=None)
    op.alter_column("reviews", "is_on_line", server_default=None)
    op.create_foreign_key(
        op.f("fk_reviews_decision_id"), "reviews", "review_decisions", ["decision_id"], ["id"]
    )
    op.create_check_constraint(
        op.f("ck_reviews_claimed_or_not"),
        "reviews",
        "(lease_token IS NULL) = (lease_until IS NULL) AND"
        " (lease_token IS NULL) = (claimed_by IS NULL)",
    )
    op.create_check_constraint(
        op.f("ck_reviews_decided_or_not"),
        "reviews",
        "(decided_at IS NULL) = (decision_id IS NULL)",
    )
    op.create_index(
        "ix_reviews_queue",
        "reviews",
        ["organisation_id", sa.text("priority DESC"), sa.text("is_on_line DESC"), "id"],
        postgresql_where=sa.text("decided_at IS NULL"),
    )
    op.create_index("ix_reviews_page", "reviews", ["organisation_id", "id"])
    op.create_index("ix_reviews_decided", "reviews", ["organisation_id", "decided_at"])

    op.add_column("inspections", sa.Column("anomaly_regions", postgresql.JSONB(), nullable=True))
    op.add_column(
        "products", sa.Column("audit_share", sa.Float(), server_default="0", nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_products_audit_share_is_a_share"), "products", "audit_share BETWEEN 0 AND 1"
    )

    op.add_column("webhook_deliveries", sa.Column("decision_id", sa.String(), nullable=True))
    op.create_foreign_key(
        op.f("fk_webhook_deliveries_decision_id"),
        "webhook_deliveries",
        "review_decisions",
        ["decision_id"],
        ["id"],
    )
    op.drop_constraint(op.f(_EVENTS), "webhook_deliveries")
    op.create_check_constraint(
        op.f(_EVENTS),
        "webhook_deliveries",
        "event IN ('inspection.completed', 'inspection.failed', 'review.decided', 'webhook.test')",
    )
    op.drop_index(_EVENT, table_name="webhook_deliveries")
    op.create_index(
        _EVENT,
        "webhook_deliveries",
        ["endpoint_id", "inspection_id", "event", sa.text("coalesce(decision_id, '')")],
        unique=True,
    )

    op.create_table(
        "web_sessions",
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("api_key_id", sa.String(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["api_key_id"], ["api_keys.id"], name=op.f("fk_web_sessions_api_key_id")
        ),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_web_sessions")),
    )
    op.create_index(op.f("ix_web_sessions_expires_at"), "web_sessions", ["expires_at"])


def downgrade() -> None:
    op.drop_table("web_sessions")
    op.execute("DELETE FROM webhook_deliveries WHERE event = 'review.decided'")
    op.drop_index(_EVENT, table_name="webhook_deliveries")
    op.drop_constraint(op.f(_EVENTS), "webhook_deliveries")
    op.create_check_constraint(
        op.f(_EVENTS),
        "webhook_deliveries",
        "event IN ('inspection.completed', 'inspection.failed', 'webhook.test')",
    )
    op.drop_column("webhook_deliveries", "decision_id")
    op.create_index(
        _EVENT, "webhook_deliveries", ["endpoint_id", "inspection_id", "event"], unique=True
    )
    op.drop_column("products", "audit_share")
    op.drop_column("inspections", "anomaly_regions")
    op.add_column("reviews", sa.Column("status", sa.String(32), nullable=True))
    op.execute(
        "UPDATE reviews SET status = CASE WHEN decided_at IS NULL THEN 'open' ELSE 'decided' END"
    )
    op.alter_column("reviews", "status", nullable=False)
    op.create_check_constraint(
        op.f("ck_reviews_status"), "reviews", "status IN ('open', 'claimed', 'decided')"
    )
    for name in ("ix_reviews_queue", "ix_reviews_page", "ix_reviews_decided"):
        op.drop_index(name, table_name="reviews")
    for name in (
        *("priority", "is_on_line", "lease_token", "lease_until"),
        *("claimed_by", "skipped_by", "decided_at", "decision_id"),
    ):
        op.drop_column("reviews", name)
    op.create_index(
        op.f("ix_reviews_organisation_id_status_created_at"),
        "reviews",
        ["organisation_id", "status", "created_at"],
    )
    op.drop_table("review_decisions")
