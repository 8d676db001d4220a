"""Tables of webhooks: who wants to hear, what they are told, and how each attempt went.

What changes a row lives in endpoints.py and deliveries.py.
"""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from shared.tables import Inspection, ReviewDecision, Table, words


class Event(StrEnum):
    INSPECTION_COMPLETED = "inspection.completed"
    INSPECTION_FAILED = "inspection.failed"
    REVIEW_DECIDED = "review.decided"
    TEST = "webhook.test"


class EndpointStatus(StrEnum):
    ACTIVE = "active"
    PAUSED = "paused"
    """Deliveries wait until it is resumed."""
    DISABLED = "disabled"
    """It said 410: nothing is kept for it."""


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


class WebhookEndpoint(Table):
    __tablename__ = "webhook_endpoints"
    __table_args__ = (
        Index(None, "organisation_id"),
        CheckConstraint("(lease_token IS NULL) = (lease_until IS NULL)", name="leased_or_not"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]]
    # What it wants to hear of; empty: everything.
    products: Mapped[list[str]] = mapped_column(server_default="{}")
    lines: Mapped[list[str]] = mapped_column(server_default="{}")
    stations: Mapped[list[str]] = mapped_column(server_default="{}")
    dispositions: Mapped[list[str]] = mapped_column(server_default="{}")

    # Kept as they are: who signs needs them.
    secret: Mapped[str]
    previous_secret: Mapped[str | None]
    previous_until: Mapped[datetime | None]

    status: Mapped[EndpointStatus] = mapped_column(words(EndpointStatus, "status"))
    status_reason: Mapped[str | None]
    failures: Mapped[int] = mapped_column(server_default="0")
    """Attempts that failed since the last one that did not."""
    failing_since: Mapped[datetime | None]
    rests_until: Mapped[datetime | None]
    """After failures it is left alone for a while, whatever waits for it."""
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookDelivery(Table):
    """One event for one endpoint. Its id is the `webhook-id`, however often it is sent."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        # One: sent again, it is the same delivery.
        Index(
            "uq_webhook_deliveries_event",
            "endpoint_id",
            "inspection_id",
            "event",
            text("coalesce(decision_id, '')"),
            unique=True,
        ),
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_id",
            "run_at",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_webhook_deliveries_page", "endpoint_id", "id"),
        Index("ix_webhook_deliveries_inspection", "inspection_id"),
        Index(
            "ix_webhook_deliveries_finished",
            "finished_at",
            postgresql_where=text("status <> 'pending'"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    inspection_id: Mapped[str | None] = mapped_column(ForeignKey("inspections.id"))
    decision_id: Mapped[str | None] = mapped_column(ForeignKey("review_decisions.id"))
    event: Mapped[Event] = mapped_column(words(Event, "event"))
    status: Mapped[DeliveryStatus] = mapped_column(words(DeliveryStatus, "status"))
    attempts: Mapped[int] = mapped_column(server_default="0")
    """Since it was last asked for: redelivering begins anew."""
    run_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    inspection: Mapped[Inspection | None] = relationship()
    decision: Mapped[ReviewDecision | None] = relationship()


class WebhookAttempt(Table):
    """The log: one POST and what came back."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (Index(None, "delivery_id", "id"), Index(None, "at"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    delivery_id: Mapped[str] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE")
    )
    at: Mapped[datetime]
    status_code: Mapped[int | None]
    error: Mapped[str | None]
    """Why there is no status, or why it does not count."""
    latency_ms: Mapped[int]
    reply: Mapped[str]
    """The first 2 KB of it."""
