"""What a webhook carries: the inspection as the API gives it, and the part's words on top.

Links, never pictures. Made when it is sent, so it says what is true then.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.delivering import Due
from shared.inspection_document import DecisionOut, InspectionOut
from shared.webhook_tables import Event

MOST_BYTES = 20_000


class InspectionEvent(BaseModel):
    """An inspection ended: with a verdict (`inspection.completed`) or without."""

    type: Literal[Event.INSPECTION_COMPLETED, Event.INSPECTION_FAILED]
    timestamp: datetime = Field(description="When it ended.")
    serial: str | None
    lot: str | None
    line: str | None
    station: str | None
    data: InspectionOut


class ReviewEvent(BaseModel):
    """A person has decided: the part that was held passes or is rejected, or stays held."""

    type: Literal[Event.REVIEW_DECIDED]
    timestamp: datetime = Field(description="When it was decided.")
    serial: str | None
    lot: str | None
    line: str | None
    station: str | None
    decision: DecisionOut = Field(
        description="The decision that this is about; `data` has the one in force."
    )
    data: InspectionOut


class TestEvent(BaseModel):
    """Nothing happened: somebody wants to see whether you hear us."""

    type: Literal[Event.TEST]
    timestamp: datetime
    data: dict[str, str]


def body(due: Due, base_url: str) -> bytes:
    """JSON of at most 20 kB. Metadata and regions that would make it longer are left out."""
    if due.inspection is None:
        test = TestEvent(type=Event.TEST, timestamp=due.created_at, data={"delivery_id": due.id})
        return test.model_dump_json().encode()
    document = InspectionOut.of(due.inspection, base_url)
    part = document.part.model_dump()
    event: InspectionEvent | ReviewEvent
    if due.decision is not None:
        event = ReviewEvent(
            type=Event.REVIEW_DECIDED,
            timestamp=due.decision.at,
            **part,
            decision=DecisionOut.of(due.decision),
            data=document,
        )
    else:
        event = InspectionEvent.model_validate(
            {
                "type": due.event,
                "timestamp": document.finished_at or due.created_at,
                **part,
                "data": document,
            }
        )
    for shorten in (_no_metadata, _no_regions):
        if len(event.model_dump_json().encode()) > MOST_BYTES:
            shorten(event)
    return event.model_dump_json().encode()


def _no_metadata(event: InspectionEvent | ReviewEvent) -> None:
    event.data.metadata = {}


def _no_regions(event: InspectionEvent | ReviewEvent) -> None:
    if event.data.autoencoder is not None:
        event.data.autoencoder.regions = []
    if event.data.review is not None and event.data.review.decision is not None:
        event.data.review.decision.region = None
    if isinstance(event, ReviewEvent):
        event.decision.region = None
