"""What people are told of a model version, without the digest of every training photo.

A manifest names thousands of photos; a list of versions must not load them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from shared.tables import ModelVersion, Product

_FIELDS = ("policy", "metrics", "provenance", "defect_types", "recalibrated_from", "created_at")


@dataclass(frozen=True)
class VersionCard:
    version: int
    digest: str
    published_by: str
    published_at: datetime
    is_active: bool
    is_shadow: bool
    thresholds: dict[str, float]
    policy: str
    metrics: dict[str, float]
    provenance: str
    defect_types: list[str]
    recalibrated_from: str | None
    made_at: str
    counts: dict[str, int]
    """Training photos per label."""


def list_cards(session: Session, product: Product) -> list[VersionCard]:
    """Newest first."""
    manifest: Any = ModelVersion.manifest
    rows = session.execute(
        select(
            ModelVersion.id,
            ModelVersion.version,
            ModelVersion.digest,
            ModelVersion.published_by,
            ModelVersion.created_at,
            ModelVersion.thresholds,
            *(manifest[name].label(f"its_{name}") for name in _FIELDS),
            manifest["data"]["counts"].label("counts"),
        )
        .where(ModelVersion.product_id == product.id)
        .order_by(ModelVersion.version.desc())
    )
    return [
        VersionCard(
            row.version,
            row.digest,
            row.published_by,
            row.created_at,
            row.id == product.active_version_id,
            row.id == product.shadow_version_id,
            row.thresholds,
            row.its_policy,
            row.its_metrics,
            row.its_provenance,
            row.its_defect_types,
            row.its_recalibrated_from,
            row.its_created_at,
            row.counts,
        )
        for row in rows
    ]
