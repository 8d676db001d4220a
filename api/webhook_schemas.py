"""What the API takes and answers about webhooks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.submission import Instant, Word
from shared.endpoints import SUBSCRIBABLE, Filter
from shared.verdicts import Disposition
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

_Words = Annotated[list[Word], Field(max_length=100)]
_ALL = sorted(SUBSCRIBABLE)


class FilterIn(BaseModel):
    """All that is given must match; what is empty matches everything."""

    model_config = ConfigDict(extra="forbid")

    products: _Words = []
    lines: _Words = []
    stations: _Words = []
    dispositions: list[Disposition] = Field([], max_length=3)

    def as_filter(self) -> Filter:
        return Filter(self.products, self.lines, self.stations, self.dispositions)


class EndpointIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="Where to POST: https, or http to a network that the operator has allowed."
    )
    events: list[
        Literal[Event.INSPECTION_COMPLETED, Event.INSPECTION_FAILED, Event.REVIEW_DECIDED]
    ] = Field(
        default=[Event.INSPECTION_COMPLETED, Event.INSPECTION_FAILED, Event.REVIEW_DECIDED],
        min_length=1,
        max_length=3,
    )
    filter: FilterIn = FilterIn()
    description: Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")] = ""


class EndpointOut(BaseModel):
    id: str
    url: str
    description: str
    events: list[Event]
    filter: FilterIn
    status: EndpointStatus
    status_reason: str | None = Field(description="Why it is paused or disabled.")
    failures: int = Field(description="Attempts that failed since the last one that did not.")
    failing_since: datetime | None
    previous_secret_until: datetime | None = Field(
        description="Until then the secret before the last rotation signs as well."
    )
    created_at: datetime

    @classmethod
    def of(cls, row: WebhookEndpoint) -> Self:
        return cls(
            id=row.id,
            url=row.url,
            description=row.description,
            events=[Event(event) for event in row.events],
            filter=FilterIn(
                products=row.products,
                lines=row.lines,
                stations=row.stations,
                dispositions=[Disposition(name) for name in row.dispositions],
            ),
            status=row.status,
            status_reason=row.status_reason,
            failures=row.failures,
            failing_since=row.failing_since,
            previous_secret_until=row.previous_until,
            created_at=row.created_at,
        )


class NewEndpointOut(EndpointOut):
    secret: str = Field(description="`whsec_…`, this once: it verifies what we send.")

    @classmethod
    def with_secret(cls, row: WebhookEndpoint) -> Self:
        return cls(**EndpointOut.of(row).model_dump(), secret=row.secret)


class EndpointsOut(BaseModel):
    webhooks: list[EndpointOut]


class AttemptOut(BaseModel):
    at: datetime
    status_code: int | None
    error: str | None
    latency_ms: int
    reply: str = Field(description="The first 2 KB of it.")

    @classmethod
    def of(cls, row: WebhookAttempt) -> Self:
        return cls(
            at=row.at,
            status_code=row.status_code,
            error=row.error,
            latency_ms=row.latency_ms,
            reply=row.reply,
        )


class DeliveryOut(BaseModel):
    id: str = Field(description="The `webhook-id`: the same for every attempt.")
    endpoint_id: str
    inspection_id: str | None
    decision_id: str | None = Field(description="What `review.decided` is about.")
    event: Event
    status: DeliveryStatus
    attempts: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    log: list[AttemptOut] = Field(description="The last 20 attempts, oldest first.")

    @classmethod
    def of(cls, row: WebhookDelivery, attempts: Sequence[WebhookAttempt]) -> Self:
        return cls(
            id=row.id,
            endpoint_id=row.endpoint_id,
            inspection_id=row.inspection_id,
            decision_id=row.decision_id,
            event=row.event,
            status=row.status,
            attempts=row.attempts,
            next_attempt_at=row.run_at if row.status is DeliveryStatus.PENDING else None,
            created_at=row.created_at,
            finished_at=row.finished_at,
            log=[AttemptOut.of(entry) for entry in attempts if entry.delivery_id == row.id],
        )


class DeliveryPage(BaseModel):
    deliveries: list[DeliveryOut]
    next_page_token: str = Field(description="Empty on the last page.")


class ReplayIn(BaseModel):
    """Which inspections to tell of again. At least one of them; all that is given must match."""

    model_config = ConfigDict(extra="forbid")

    since: Instant | None = Field(None, description="Ended at or after.")
    until: Instant | None = Field(None, description="Ended before.")
    lot: Word | None = None
    serial: Word | None = None


class ReplayOut(BaseModel):
    deliveries: int = Field(description="How many are sent again.")
