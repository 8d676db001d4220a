"""What the API takes and answers about thresholds, and what other ones would do."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from shared.manifest import Thresholds


class ThresholdsOut(BaseModel):
    product: str
    version: int
    digest: str = Field(description="Of the active version; send it as `If-Match` to change them.")
    thresholds: Thresholds


class AuditIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        description="Of the parts that would pass; 0 for none."
    )


class ShareOut(BaseModel):
    """A count among many, with the exact (Clopper-Pearson) 95 % interval of the share."""

    model_config = ConfigDict(from_attributes=True)

    count: int
    of: int
    low: float | None = Field(description="Null of nothing.")
    high: float | None


class EstimateOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    count: float
    low: float
    high: float


class ErrorsOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    decided: ShareOut = Field(
        description="Among the defective, or good, parts that people decided. People see held "
        "parts first of all, so this is no share of all parts."
    )
    estimated: EstimateOut | None = Field(
        description="Among all photos: of those that the model passed from the random audit, of "
        "those that it held from those decided. Null where nobody has looked at some of them."
    )
    unchecked: int = Field(
        description="Photos that the model rejected, that nobody looked at, and that would count "
        "if the model was right about none of them."
    )


class WhatIfOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    photos: int = Field(description="The newest ones of this model, whatever its thresholds were.")
    passes: int
    rejects: int
    review_load: ShareOut = Field(description="Held for a person, of all photos.")
    escapes: ErrorsOut = Field(description="Defective, and would pass.")
    false_alarms: ErrorsOut = Field(description="Good, and would be rejected unseen.")


class WhatIfAnswer(BaseModel):
    thresholds: Thresholds
    present: WhatIfOut = Field(description="With the thresholds in force.")
    proposed: WhatIfOut
    since: datetime | None
