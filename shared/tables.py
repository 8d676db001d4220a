"""The tables and their enums. Every row that somebody owns names its organisation.

What changes a row lives elsewhere: inspections.py, reviews.py, products.py, shadows.py, keys.py,
retention.py.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Enum,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shared.verdicts import Disposition, Verdict


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


TERMINAL = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELED})


class VerdictSource(StrEnum):
    MODEL = "model"
    PERSON = "person"


class ReviewStatus(StrEnum):
    OPEN = "open"
    CLAIMED = "claimed"
    DECIDED = "decided"


class Scope(StrEnum):
    SUBMIT = "submit"
    READ = "read"
    REVIEW = "review"
    ADMIN = "admin"


class Table(DeclarativeBase):
    # Named constraints can be dropped by migrations on any server.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(String),
    }


def words(enum: type[StrEnum], name: str) -> Enum:
    """Text with a CHECK: a native enum cannot lose a value in a migration."""
    return Enum(
        enum,
        native_enum=False,
        create_constraint=True,
        name=name,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


class Organisation(Table):
    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Table):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    name: Mapped[str]
    secret_sha256: Mapped[str]
    """The secret has 256 random bits, so a plain hash cannot be guessed backwards."""
    scopes: Mapped[list[str]]
    requests_per_second: Mapped[int | None]
    max_queued: Mapped[int | None]
    """Both: None for what the settings say."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class AuditEntry(Table):
    """Who changed what concerns more than one inspection. A trigger refuses UPDATE and DELETE."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "organisation_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


class Product(Table):
    __tablename__ = "products"
    __table_args__ = (
        UniqueConstraint("organisation_id", "name"),
        CheckConstraint(
            "shadow_version_id <> active_version_id", name="shadow_is_not_the_active_version"
        ),
        CheckConstraint(
            "shadow_version_id IS NULL OR (active_version_id IS NOT NULL AND"
            " shadow_since IS NOT NULL)",
            name="shadow_has_a_version_to_compare_with",
        ),
        CheckConstraint("retention_days > 0", name="retention_is_a_time"),
        CheckConstraint("audit_share BETWEEN 0 AND 1", name="audit_share_is_a_share"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    name: Mapped[str]
    active_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("model_versions.id", use_alter=True)
    )
    shadow_version_id: Mapped[str | None] = mapped_column(
        ForeignKey("model_versions.id", use_alter=True)
    )
    """Judges the same photos, and nobody is told what it says."""
    shadow_since: Mapped[datetime | None]
    retention_days: Mapped[int | None]
    """Days after its verdict for which the pictures of a photo are kept; None: for ever."""
    audit_share: Mapped[float] = mapped_column(server_default="0")
    """Share of the parts that would pass which a person looks at all the same."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    active_version: Mapped["ModelVersion | None"] = relationship(foreign_keys=[active_version_id])
    shadow_version: Mapped["ModelVersion | None"] = relationship(foreign_keys=[shadow_version_id])


class ModelVersion(Table):
    """Immutable: what was published under this number stays what it was."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("product_id", "version"),
        UniqueConstraint("product_id", "digest"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    version: Mapped[int]
    digest: Mapped[str]
    thresholds: Mapped[dict[str, Any]]
    """Those of the manifest, which itself may be large: it names every training photo."""
    manifest: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    published_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    product: Mapped[Product] = relationship(foreign_keys=[product_id])


class Activation(Table):
    """Which version became active when, and by whom. Only ever appended to."""

    __tablename__ = "activations"
    __table_args__ = (Index(None, "product_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    model_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    previous_id: Mapped[int | None] = mapped_column(ForeignKey("activations.id"))
    """Where a rollback from here leads; None: nowhere."""
    is_rollback: Mapped[bool]
    actor: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now())

    model_version: Mapped[ModelVersion] = relationship(lazy="joined", innerjoin=True)


class SubmissionBatch(Table):
    """Photos that were submitted together and are asked for together."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Upload(Table):
    """A photo that its sender puts into storage without our help, before submitting it."""

    __tablename__ = "uploads"
    __table_args__ = (
        Index(
            "ix_uploads_expires_at", "expires_at", postgresql_where=text("inspection_id IS NULL")
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    key: Mapped[str]
    media_type: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    """What the sender says that it is; the worker checks it."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    inspection_id: Mapped[str | None] = mapped_column(ForeignKey("inspections.id"))
    """What it was submitted as, once."""


class Inspection(Table):
    __tablename__ = "inspections"
    __table_args__ = (
        CheckConstraint(
            "(status = 'running') = (lease_token IS NOT NULL)", name="only_running_is_leased"
        ),
        CheckConstraint(
            "status <> 'succeeded' OR (verdict IS NOT NULL AND overlay_key IS NOT NULL)",
            name="success_has_a_verdict",
        ),
        # The queue: small, whatever the number of finished rows.
        Index(
            "ix_inspections_queue",
            text("priority DESC"),
            "source",
            "created_at",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_inspections_lease", "lease_until", postgresql_where=text("status = 'running'")),
        Index("ix_inspections_page", "organisation_id", "created_at", "id"),
        Index("ix_inspections_serial", "organisation_id", "serial"),
        Index("ix_inspections_lot", "organisation_id", "lot", "created_at", "id"),
        Index(
            "ix_inspections_batch",
            "batch_id",
            "id",
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        Index(
            "ix_inspections_retention",
            "product_id",
            "finished_at",
            postgresql_where=text("finished_at IS NOT NULL AND pictures_deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    product_id: Mapped[str] = mapped_column(ForeignKey("products.id"))
    model_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    """Pinned when the photo is accepted: the version that was active then judges it."""

    # The part, in the words of the plant.
    serial: Mapped[str | None]
    lot: Mapped[str | None]
    line: Mapped[str | None]
    station: Mapped[str | None]
    captured_at: Mapped[datetime | None]
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id"))
    # `metadata` is taken by SQLAlchemy.
    annotations: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{}")

    # The photo.
    image_key: Mapped[str]
    image_sha256: Mapped[str]
    image_bytes: Mapped[int]
    media_type: Mapped[str]
    width: Mapped[int]
    height: Mapped[int]

    # The queue.
    status: Mapped[Status] = mapped_column(words(Status, "status"))
    priority: Mapped[int] = mapped_column(server_default="0")
    source: Mapped[str] = mapped_column(server_default="")
    """Who it came from: sources of one priority take turns, however many photos each has sent."""
    run_at: Mapped[datetime] = mapped_column(server_default=func.now())
    attempts: Mapped[int] = mapped_column(server_default="0")
    is_alone: Mapped[bool] = mapped_column(server_default=text("false"))
    """Its batch crashed a worker: it is judged by itself from now on."""
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]

    # The outcome.
    verdict: Mapped[Verdict | None] = mapped_column(words(Verdict, "verdict"))
    disposition: Mapped[Disposition | None] = mapped_column(words(Disposition, "disposition"))
    verdict_source: Mapped[VerdictSource | None] = mapped_column(
        words(VerdictSource, "verdict_source")
    )
    review_reasons: Mapped[list[str]] = mapped_column(server_default="{}")
    defect_probability: Mapped[float | None]
    mse: Mapped[float | None]
    anomaly_score: Mapped[float | None]
    domain_distance: Mapped[float | None]
    quality_reasons: Mapped[list[str]] = mapped_column(server_default="{}")
    engine: Mapped[str | None]
    overlay_key: Mapped[str | None]
    anomaly_map_key: Mapped[str | None]
    anomaly_regions: Mapped[list[Any] | None] = mapped_column(JSONB)
    """Where the anomaly score is above its threshold: polygons as regions.py says."""
    timings_ms: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    pictures_deleted_at: Mapped[datetime | None]
    """Original and maps are no longer in storage; what they showed is in this row."""

    product: Mapped[Product] = relationship(lazy="joined", innerjoin=True)
    model_version: Mapped[ModelVersion] = relationship(lazy="joined", innerjoin=True)
    review: Mapped["Review | None"] = relationship(back_populates="inspection", lazy="joined")


class InspectionEvent(Table):
    """History: who or what changed an inspection, and when. Only ever appended to."""

    __tablename__ = "inspection_events"
    __table_args__ = (Index(None, "inspection_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    inspection_id: Mapped[str] = mapped_column(ForeignKey("inspections.id"))
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str]
    event: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default="{}")


class ShadowResult(Table):
    """What a shadow version said of a photo, beside what the active version said of it then."""

    __tablename__ = "shadow_results"
    __table_args__ = (
        CheckConstraint(
            "(error_code IS NULL) = (verdict IS NOT NULL AND disposition IS NOT NULL"
            " AND agrees IS NOT NULL)",
            name="failed_or_judged",
        ),
        Index(None, "model_version_id", "active_version_id", "created_at"),
        Index(
            "ix_shadow_results_disagreements",
            "model_version_id",
            "active_version_id",
            "created_at",
            "inspection_id",
            postgresql_where=text("NOT agrees"),
        ),
    )

    inspection_id: Mapped[str] = mapped_column(ForeignKey("inspections.id"), primary_key=True)
    model_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    """The shadow version."""

    # Copied: a person may overrule the inspection's own verdict later.
    active_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    active_verdict: Mapped[Verdict] = mapped_column(words(Verdict, "active_verdict"))
    active_disposition: Mapped[Disposition] = mapped_column(
        words(Disposition, "active_disposition")
    )

    # None where the shadow failed.
    verdict: Mapped[Verdict | None] = mapped_column(words(Verdict, "verdict"))
    disposition: Mapped[Disposition | None] = mapped_column(words(Disposition, "disposition"))
    agrees: Mapped[bool | None]
    """The same verdict and the same disposition."""
    defect_probability: Mapped[float | None]
    mse: Mapped[float | None]
    anomaly_score: Mapped[float | None]
    domain_distance: Mapped[float | None]
    error_code: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    inspection: Mapped[Inspection] = relationship()


class IdempotencyKey(Table):
    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    payload_sha256: Mapped[str]
    inspection_id: Mapped[str] = mapped_column(ForeignKey("inspections.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Review(Table):
    """A part that waits for a person. One per inspection, opened with its verdict."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint(
            "(lease_token IS NULL) = (lease_until IS NULL) AND"
            " (lease_token IS NULL) = (claimed_by IS NULL)",
            name="claimed_or_not",
        ),
        CheckConstraint("(decided_at IS NULL) = (decision_id IS NULL)", name="decided_or_not"),
        # What waits, most urgent first: small, whatever the number of decided ones.
        Index(
            "ix_reviews_queue",
            "organisation_id",
            text("priority DESC"),
            text("is_on_line DESC"),
            "id",
            postgresql_where=text("decided_at IS NULL"),
        ),
        Index("ix_reviews_page", "organisation_id", "id"),
        Index("ix_reviews_decided", "organisation_id", "decided_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    inspection_id: Mapped[str] = mapped_column(ForeignKey("inspections.id"), unique=True)
    reasons: Mapped[list[str]]
    priority: Mapped[int]
    """Of the inspection."""
    is_on_line: Mapped[bool]
    """It came from a line, which may be waiting; others were sent by hand."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    # The lease of the person who looks at it.
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    claimed_by: Mapped[str | None]
    skipped_by: Mapped[list[str]] = mapped_column(server_default="{}")
    """Who has put it off: offered to the others first."""

    decided_at: Mapped[datetime | None]
    """When it was decided first."""
    decision_id: Mapped[str | None] = mapped_column(
        ForeignKey("review_decisions.id", use_alter=True)
    )
    """The latest decision: the one in force."""

    inspection: Mapped[Inspection] = relationship(back_populates="review")
    decision: Mapped["ReviewDecision | None"] = relationship(
        foreign_keys=[decision_id], lazy="joined"
    )

    def status(self, now: datetime) -> ReviewStatus:
        if self.decided_at is not None:
            return ReviewStatus.DECIDED
        is_held = self.lease_until is not None and self.lease_until > now
        return ReviewStatus.CLAIMED if is_held else ReviewStatus.OPEN


class ReviewDecision(Table):
    """What a person decided. A trigger refuses UPDATE and DELETE: a later one supersedes it."""

    __tablename__ = "review_decisions"
    __table_args__ = (Index(None, "review_id", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    review_id: Mapped[str] = mapped_column(ForeignKey("reviews.id"))
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    reviewer: Mapped[str]
    """The id of a key, also where its owner decided in a browser."""
    verdict: Mapped[Verdict] = mapped_column(words(Verdict, "verdict"))
    defect_type: Mapped[str | None]
    region: Mapped[list[Any] | None] = mapped_column(JSONB)
    """Where the defect is: polygons as regions.py says."""
    comment: Mapped[str] = mapped_column(server_default="")
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class WebSession(Table):
    """Somebody who logged in to the pages with a key; it ends with the key at the latest."""

    __tablename__ = "web_sessions"
    __table_args__ = (Index(None, "expires_at"),)

    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]


class Worker(Table):
    """A worker or deliverer that said lately that it is alive; `/readyz` goes by it."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    engine: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())


INSPECTIONS = cast(SqlTable, Inspection.__table__)
EVENTS = cast(SqlTable, InspectionEvent.__table__)
"""By their classes, SQLAlchemy would look for objects of the session to change as well."""
