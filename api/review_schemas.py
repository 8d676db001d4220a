"""What the API takes and answers about reviews."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from api.submission import Word, encodable
from shared.inspection_document import DecisionOut, InspectionOut
from shared.regions import Region
from shared.reviews import Decided, Filters
from shared.tables import Review, ReviewDecision, ReviewStatus
from shared.verdicts import ReviewReason, Verdict

Token = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]
Comment = Annotated[
    str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$"), AfterValidator(encodable)
]


class ReviewOut(BaseModel):
    id: str
    inspection_id: str
    status: ReviewStatus
    reasons: list[ReviewReason]
    priority: int
    created_at: datetime
    lease_until: datetime | None
    claimed_by: str | None = Field(description="Key of whoever looks at it.")
    decided_at: datetime | None = Field(description="When it was decided first.")
    decisions: list[DecisionOut] = Field(description="Oldest first; the last one is in force.")

    @classmethod
    def of(cls, row: Review, decisions: Sequence[ReviewDecision]) -> Self:
        now = datetime.now(UTC)
        is_held = row.lease_until is not None and row.lease_until > now
        return cls(
            id=row.id,
            inspection_id=row.inspection_id,
            status=row.status(now),
            reasons=[ReviewReason(reason) for reason in row.reasons],
            priority=row.priority,
            created_at=row.created_at,
            lease_until=row.lease_until if is_held else None,
            claimed_by=row.claimed_by if is_held else None,
            decided_at=row.decided_at,
            decisions=[
                DecisionOut.of(decision) for decision in decisions if decision.review_id == row.id
            ],
        )


class ReviewPage(BaseModel):
    reviews: list[ReviewOut]
    waiting: int = Field(description="Undecided ones that match the filters, on all pages.")
    next_page_token: str = Field(description="Empty on the last page.")


class ClaimedOut(ReviewOut):
    """A review that is yours until `lease_until`."""

    lease_token: str = Field(description="Send it back with your decision.")
    inspection: InspectionOut
    defect_types: list[str] = Field(description="What a decision may name as `defect_type`.")


class NextIn(BaseModel):
    """Which reviews to choose from; all that is given must match."""

    model_config = ConfigDict(extra="forbid")

    product: Word | None = None
    line: Word | None = None
    station: Word | None = None
    lot: Word | None = None
    reason: ReviewReason | None = None

    def as_filters(self) -> Filters:
        return Filters(self.product, self.line, self.station, self.lot, self.reason)


class LeaseIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    lease_token: Token


class ReleaseIn(LeaseIn):
    skip: bool = Field(False, description="Offer it to others first.")


class LeaseOut(BaseModel):
    lease_token: str
    lease_until: datetime


class DecisionIn(LeaseIn):
    verdict: Verdict = Field(description="`undecidable` where you cannot tell: it stays on hold.")
    defect_type: Word | None = Field(None, description="One of the product's, or `other`.")
    region: Region | None = Field(None, description="Where the defect is.")
    comment: Comment = ""

    def as_decided(self) -> Decided:
        return Decided(self.verdict, self.defect_type, self.region, self.comment)
