"""What batches and direct uploads look like over HTTP."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.inspection_document import ErrorOut, InspectionOut


class BatchItemOut(BaseModel):
    name: str = Field(description="Name of the file, as it came.")
    inspection_id: str | None
    inspection: InspectionOut | None = Field(
        description="Null where it was refused, or accepted by an earlier request."
    )
    error: ErrorOut | None


class BatchLinks(BaseModel):
    self: str
    inspections: str


class BatchSubmittedOut(BaseModel):
    """What became of each file, in the order in which they came."""

    id: str
    accepted: int
    refused: int
    items: list[BatchItemOut]
    urls: BatchLinks


class BatchOut(BaseModel):
    """How far a batch is: counts of its photos."""

    id: str
    created_at: datetime
    total: int
    by_status: dict[str, int]
    by_verdict: dict[str, int]
    by_disposition: dict[str, int]
    is_finished: bool
    urls: BatchLinks


class UploadIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    media_type: Literal["image/jpeg", "image/png"]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="Of the whole file, hex.")]


class UploadOut(BaseModel):
    """Where to PUT the file; then submit `{"upload_id": …}` to `/v1/inspections`."""

    upload_id: str
    method: Literal["PUT"] = "PUT"
    url: str
    headers: dict[str, str] = Field(description="To be sent as they are.")
    expires_at: datetime
