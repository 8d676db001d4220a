"""What people are told of a model version, without the digest of every training photo.

A manifest names thousands of photos; a list of versions must not load them.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from shared.errors import NotFound
from shared.paging import read_number
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


def page(
    session: Session, product: Product, *, page_size: int, page_token: str = ""
) -> tuple[list[VersionCard], str]:
    """Newest first, and the token of the next page: empty on the last."""
    query = _select().where(ModelVersion.product_id == product.id)
    if page_token:
        query = query.where(ModelVersion.version < read_number(page_token, largest=2**31 - 1))
    rows = session.execute(query.order_by(ModelVersion.version.desc()).limit(page_size + 1)).all()
    cards = [_card(row, product) for row in rows[:page_size]]
    return cards, str(cards[-1].version) if len(rows) > page_size else ""


def get_card(session: Session, product: Product, version: int) -> VersionCard:
    """The card of the version of that number. Raises NotFound."""
    row = session.execute(
        _select().where(ModelVersion.product_id == product.id, ModelVersion.version == version)
    ).first()
    if row is None:
        raise NotFound(f"Product {product.name!r} has no version {version}.")
    return _card(row, product)


def _select() -> Select[Any]:
    manifest: Any = ModelVersion.manifest
    return select(
        ModelVersion.id,
        ModelVersion.version,
        ModelVersion.digest,
        ModelVersion.published_by,
        ModelVersion.created_at,
        ModelVersion.thresholds,
        *(manifest[name].label(f"its_{name}") for name in _FIELDS),
        manifest["data"]["counts"].label("counts"),
    )


def _card(row: Row[Any], product: Product) -> VersionCard:
    return VersionCard(
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
