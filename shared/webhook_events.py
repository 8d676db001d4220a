"""What a webhook carries: the inspection as the API gives it, and the part's words on top.

Links, never pictures. Made when it is sent, so it says what is true then.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.delivering import Due
from shared.inspection_document import DecisionOut, InspectionOut
from shared.webhook_tables import Event

MOST_BYTES = 20_000
_SHORT_COMMENT = 500
"""Letters, of up to 6 bytes each in JSON."""


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
    """JSON of at most 20 kB. What would make it longer is left to the links: regions first, then
    metadata, by which a receiver may know the part, and last the end of a long comment.
    """
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
    for shorten in (_no_regions, _no_metadata, _short_comments):
        if len(event.model_dump_json().encode()) > MOST_BYTES:
            shorten(event)
    return event.model_dump_json().encode()


def _no_regions(event: InspectionEvent | ReviewEvent) -> None:
    if event.data.autoencoder is not None:
        event.data.autoencoder.regions = []
    for decision in _decisions(event):
        decision.region = None


def _no_metadata(event: InspectionEvent | ReviewEvent) -> None:
    event.data.metadata = {}


def _short_comments(event: InspectionEvent | ReviewEvent) -> None:
    for decision in _decisions(event):
        if len(decision.comment) > _SHORT_COMMENT:
            decision.comment = decision.comment[:_SHORT_COMMENT] + "…"


def _decisions(event: InspectionEvent | ReviewEvent) -> Iterator[DecisionOut]:
    if isinstance(event, ReviewEvent):
        yield event.decision
    if event.data.review is not None and event.data.review.decision is not None:
        yield event.data.review.decision
