"""Shadow versions and their results; the history of activations."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_VERDICTS = ("good", "defective", "undecidable")
_DISPOSITIONS = ("pass", "reject", "hold")


def _words(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=32)


def upgrade() -> None:
    op.add_column("products", sa.Column("shadow_version_id", sa.String(), nullable=True))
    op.add_column("products", sa.Column("shadow_since", sa.DateTime(timezone=True), nullable=True))
    op.create_foreign_key(
        "fk_products_shadow_version_id", "products", "model_versions", ["shadow_version_id"], ["id"]
    )
    op.create_check_constraint(
        op.f("ck_products_shadow_is_not_the_active_version"),
        "products",
        "shadow_version_id <> active_version_id",
    )
    op.create_check_constraint(
        op.f("ck_products_shadow_has_a_version_to_compare_with"),
        "products",
        "shadow_version_id IS NULL OR (active_version_id IS NOT NULL AND shadow_since IS NOT NULL)",
    )
    op.create_table(
        "activations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("product_id", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.String(), nullable=False),
        sa.Column("previous_id", sa.BigInteger(), nullable=True),
        sa.Column("is_rollback", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column(
            "at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_activations_model_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["previous_id"], ["activations.id"], name=op.f("fk_activations_previous_id")
        ),
        sa.ForeignKeyConstraint(
            ["product_id"], ["products.id"], name=op.f("fk_activations_product_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_activations")),
    )
    op.create_index(
        op.f("ix_activations_product_id_id"), "activations", ["product_id", "id"], unique=False
    )
    # What is active now is where the first rollback of each product leads; who activated it
    # and when was not kept.
    op.execute(
        "INSERT INTO activations (product_id, model_version_id, is_rollback, actor)"
        " SELECT id, active_version_id, false, 'migration' FROM products"
        " WHERE active_version_id IS NOT NULL"
    )
    op.create_table(
        "shadow_results",
        sa.Column("inspection_id", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.String(), nullable=False),
        sa.Column("active_version_id", sa.String(), nullable=False),
        sa.Column("active_verdict", _words("active_verdict", _VERDICTS), nullable=False),
        sa.Column(
            "active_disposition", _words("active_disposition", _DISPOSITIONS), nullable=False
        ),
        sa.Column("verdict", _words("verdict", _VERDICTS), nullable=True),
        sa.Column("disposition", _words("disposition", _DISPOSITIONS), nullable=True),
        sa.Column("agrees", sa.Boolean(), nullable=True),
        sa.Column("defect_probability", sa.Double(), nullable=True),
        sa.Column("mse", sa.Double(), nullable=True),
        sa.Column("anomaly_score", sa.Double(), nullable=True),
        sa.Column("domain_distance", sa.Double(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(error_code IS NULL) = (verdict IS NOT NULL AND disposition IS NOT NULL"
            " AND agrees IS NOT NULL)",
            name=op.f("ck_shadow_results_failed_or_judged"),
        ),
        sa.ForeignKeyConstraint(
            ["active_version_id"],
            ["model_versions.id"],
            name=op.f("fk_shadow_results_active_version_id"),
        ),
        sa.ForeignKeyConstraint(
            ["inspection_id"], ["inspections.id"], name=op.f("fk_shadow_results_inspection_id")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_versions.id"],
            name=op.f("fk_shadow_results_model_version_id"),
        ),
        sa.PrimaryKeyConstraint(
            "inspection_id", "model_version_id", name=op.f("pk_shadow_results")
        ),
    )
    op.create_index(
        "ix_shadow_results_disagreements",
        "shadow_results",
        ["model_version_id", "active_version_id", "created_at", "inspection_id"],
        unique=False,
        postgresql_where=sa.text("NOT agrees"),
    )
    op.create_index(
        op.f("ix_shadow_results_model_version_id_active_version_id_created_at"),
        "shadow_results",
        ["model_version_id", "active_version_id", "created_at"],
        unique=False,
    )


def downgrade() -> None:
    op.drop_table("shadow_results")
    op.drop_table("activations")
    op.drop_constraint(
        op.f("ck_products_shadow_has_a_version_to_compare_with"), "products", type_="check"
    )
    op.drop_constraint(
        op.f("ck_products_shadow_is_not_the_active_version"), "products", type_="check"
    )
    op.drop_constraint("fk_products_shadow_version_id", "products", type_="foreignkey")
    op.drop_column("products", "shadow_since")
    op.drop_column("products", "shadow_version_id")
