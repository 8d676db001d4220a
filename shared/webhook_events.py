"""What a webhook carries: the inspection as the API gives it, and the part's words on top.

Links, never pictures. Made when it is sent, so it says what is true then.
"""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.delivering import Due
from shared.inspection_document import InspectionOut
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


class TestEvent(BaseModel):
    """Nothing happened: somebody wants to see whether you hear us."""

    type: Literal[Event.TEST]
    timestamp: datetime
    data: dict[str, str]


def body(due: Due, base_url: str) -> bytes:
    """JSON of at most 20 kB. Metadata that would make it longer is left to the link."""
    if due.inspection is None:
        test = TestEvent(type=Event.TEST, timestamp=due.created_at, data={"delivery_id": due.id})
        return test.model_dump_json().encode()
    document = InspectionOut.of(due.inspection, base_url)
    event = InspectionEvent.model_validate(
        {
            "type": due.event,
            "timestamp": document.finished_at or due.created_at,
            **document.part.model_dump(),
            "data": document,
        }
    )
    text = event.model_dump_json().encode()
    if len(text) > MOST_BYTES:
        event.data.metadata = {}
        text = event.model_dump_json().encode()
    return text
