"""What the API takes and answers about products and their versions."""

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from shared.manifest import Manifest, Thresholds
from shared.retention import MOST_DAYS
from shared.tables import Activation, ModelVersion, Product
from shared.version_cards import VersionCard


class VersionOut(BaseModel):
    product: str
    version: int
    digest: str
    published_by: str
    created_at: datetime
    is_active: bool
    is_shadow: bool
    manifest: Manifest

    @classmethod
    def of(cls, row: ModelVersion, product: Product) -> Self:
        return cls(
            product=product.name,
            version=row.version,
            digest=row.digest,
            published_by=row.published_by,
            created_at=row.created_at,
            is_active=row.id == product.active_version_id,
            is_shadow=row.id == product.shadow_version_id,
            manifest=Manifest.model_validate(row.manifest),
        )


class ProductOut(BaseModel):
    name: str
    active_version: int | None
    shadow_version: int | None
    retention_days: int | None = Field(
        description="Days after its verdict for which a photo's pictures are kept; null: for ever."
    )
    audit_share: float = Field(
        description="Share of the parts that would pass which a person looks at all the same."
    )
    created_at: datetime

    @classmethod
    def of(cls, row: Product) -> Self:
        active, shadow = row.active_version, row.shadow_version
        return cls(
            name=row.name,
            active_version=active.version if active else None,
            shadow_version=shadow.version if shadow else None,
            retention_days=row.retention_days,
            audit_share=row.audit_share,
            created_at=row.created_at,
        )


class RetentionIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    days: Annotated[int, Field(ge=1, le=MOST_DAYS)] | None = Field(
        description="Days after its verdict; null: for ever."
    )


class ProductsOut(BaseModel):
    products: list[ProductOut]


class VersionCardOut(BaseModel):
    product: str
    version: int
    digest: str
    published_by: str
    created_at: datetime = Field(description="When it was published.")
    is_active: bool
    is_shadow: bool
    thresholds: Thresholds
    policy: str = Field(description="What the thresholds were chosen for.")
    metrics: dict[str, float] = Field(description="Figures of its training, out of fold.")
    provenance: str
    defect_types: list[str]
    counts: dict[str, int] = Field(description="Training photos per label.")
    recalibrated_from: str | None = Field(description="Digest of the version it was made from.")

    @classmethod
    def of(cls, card: VersionCard, product: str) -> Self:
        return cls(
            product=product,
            version=card.version,
            digest=card.digest,
            published_by=card.published_by,
            created_at=card.published_at,
            is_active=card.is_active,
            is_shadow=card.is_shadow,
            thresholds=Thresholds.model_validate(card.thresholds),
            policy=card.policy,
            metrics=card.metrics,
            provenance=card.provenance,
            defect_types=card.defect_types,
            counts=card.counts,
            recalibrated_from=card.recalibrated_from,
        )


class VersionPage(BaseModel):
    versions: list[VersionCardOut]
    next_page_token: str = Field(description="Empty on the last page.")


class ActivationOut(BaseModel):
    version: int
    digest: str
    at: datetime
    actor: str = Field(description="The key that did it, or `bootstrap` or `migration`.")
    is_rollback: bool

    @classmethod
    def of(cls, row: Activation) -> Self:
        return cls(
            version=row.model_version.version,
            digest=row.model_version.digest,
            at=row.at,
            actor=row.actor,
            is_rollback=row.is_rollback,
        )


class ActivationsOut(BaseModel):
    activations: list[ActivationOut]
