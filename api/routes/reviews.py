"""The review queue over HTTP: claim a part that is held, look at it, decide."""

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from sqlalchemy.orm import Session

from api.auth import FIRST, Reviewer, ReviewLooker
from api.bodies import described, reading
from api.deps import AppGateway, BaseUrl
from api.problems import responses
from api.review_schemas import (
    ClaimedOut,
    DecisionIn,
    LeaseIn,
    LeaseOut,
    NextIn,
    ReleaseIn,
    ReviewOut,
    ReviewPage,
)
from api.submission import Word
from shared import products, reviews
from shared.db import transaction
from shared.errors import NotFound
from shared.inspection_document import InspectionOut
from shared.queue import tell_finished
from shared.reviews import Filters
from shared.tables import Review, ReviewStatus
from shared.verdicts import ReviewReason

router = APIRouter(prefix="/v1/reviews", tags=["reviews"], dependencies=[FIRST])


async def _review_id(review_id: Annotated[str, Path(description="`rev_…`")]) -> str:
    if not re.fullmatch(r"rev_[0-9a-z]{26}", review_id):
        raise NotFound("There is no such review.")
    return review_id


ReviewId = Annotated[str, Depends(_review_id)]


@router.get(
    "",
    response_model=ReviewPage,
    summary="Parts that wait for a person, and those decided",
    responses=responses(401, 403, 422, 429, 503),
)
def list_reviews(
    caller: ReviewLooker,
    product: Word | None = None,
    line: Word | None = None,
    station: Word | None = None,
    lot: Word | None = None,
    reason: ReviewReason | None = None,
    status: ReviewStatus | None = None,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str, Query(max_length=30, pattern="^(rev_[0-9a-z]{26})?$")] = "",
) -> ReviewPage:
    """Oldest first. All given filters must match."""
    filters = Filters(product, line, station, lot, reason, status)
    with transaction() as session:
        rows, next_page_token = reviews.page(
            session,
            organisation_id=caller.organisation_id,
            filters=filters,
            page_size=page_size,
            page_token=page_token,
        )
        decisions = reviews.decisions_of(session, [row.id for row in rows])
        return ReviewPage(
            reviews=[ReviewOut.of(row, decisions) for row in rows],
            waiting=reviews.count_waiting(
                session, organisation_id=caller.organisation_id, filters=filters
            ),
            next_page_token=next_page_token,
        )


@router.post(
    "/next",
    response_model=ClaimedOut,
    summary="Claim the most urgent one",
    responses={
        204: {"description": "Nothing waits."},
        **responses(400, 401, 403, 413, 422, 429, 503),
    },
    openapi_extra=described(NextIn),
)
def claim_next(
    caller: Reviewer,
    gateway: AppGateway,
    base_url: BaseUrl,
    asked: Annotated[NextIn, Depends(reading(NextIn))],
) -> ClaimedOut | Response:
    """Priority first, then what came from a line, then the oldest; what you skipped comes last."""
    with transaction() as session:
        row = reviews.claim_next(
            session,
            organisation_id=caller.organisation_id,
            reviewer=caller.key_id,
            filters=asked.as_filters(),
            lease=gateway.settings.review_lease,
        )
        if row is None:
            return Response(status_code=204)
        return _claimed(session, row, base_url)


@router.get(
    "/{review_id}",
    response_model=ReviewOut,
    summary="One review with all its decisions",
    responses=responses(401, 403, 404, 429, 503),
)
def read(review_id: ReviewId, caller: Reviewer) -> ReviewOut:
    with transaction() as session:
        row = reviews.get(session, organisation_id=caller.organisation_id, review_id=review_id)
        return ReviewOut.of(row, reviews.decisions_of(session, [row.id]))


@router.post(
    "/{review_id}/claim",
    response_model=ClaimedOut,
    summary="Claim this one",
    responses=responses(401, 403, 404, 409, 429, 503),
)
def claim(
    review_id: ReviewId, caller: Reviewer, gateway: AppGateway, base_url: BaseUrl
) -> ClaimedOut:
    """Also one that is decided, to decide it anew. 409 while somebody else looks at it."""
    with transaction() as session:
        row = reviews.claim(
            session,
            organisation_id=caller.organisation_id,
            review_id=review_id,
            reviewer=caller.key_id,
            lease=gateway.settings.review_lease,
        )
        return _claimed(session, row, base_url)


@router.post(
    "/{review_id}/extend",
    response_model=LeaseOut,
    summary="You are still at it",
    responses=responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
    openapi_extra=described(LeaseIn),
)
def extend(
    review_id: ReviewId,
    caller: Reviewer,
    gateway: AppGateway,
    asked: Annotated[LeaseIn, Depends(reading(LeaseIn))],
) -> LeaseOut:
    with transaction() as session:
        row = reviews.extend(
            session,
            organisation_id=caller.organisation_id,
            review_id=review_id,
            lease_token=asked.lease_token,
            lease=gateway.settings.review_lease,
        )
        return LeaseOut.model_validate(row, from_attributes=True)


@router.post(
    "/{review_id}/release",
    status_code=204,
    summary="Put it back undecided",
    responses=responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
    openapi_extra=described(ReleaseIn),
)
def release(
    review_id: ReviewId,
    caller: Reviewer,
    asked: Annotated[ReleaseIn, Depends(reading(ReleaseIn))],
) -> Response:
    """`skip` offers it to the others first."""
    with transaction() as session:
        reviews.release(
            session,
            organisation_id=caller.organisation_id,
            review_id=review_id,
            lease_token=asked.lease_token,
            skip=asked.skip,
        )
    return Response(status_code=204)


@router.post(
    "/{review_id}/decision",
    response_model=ReviewOut,
    summary="Decide",
    responses=responses(400, 401, 403, 404, 409, 413, 422, 429, 503),
    openapi_extra=described(DecisionIn),
)
def decide(
    review_id: ReviewId,
    caller: Reviewer,
    gateway: AppGateway,
    asked: Annotated[DecisionIn, Depends(reading(DecisionIn))],
) -> ReviewOut:
    """Verdict and disposition of the inspection follow it, and webhooks tell `review.decided`.

    409 once your lease has run out; then nothing was changed.
    """
    with transaction() as session:
        row = reviews.decide(
            session,
            organisation_id=caller.organisation_id,
            review_id=review_id,
            lease_token=asked.lease_token,
            reviewer=caller.key_id,
            decided=asked.as_decided(),
        )
        decided = ReviewOut.of(row, reviews.decisions_of(session, [row.id]))
    gateway.deliverers.ring()
    tell_finished([decided.inspection_id])
    return decided


def _claimed(session: Session, row: Review, base_url: str) -> ClaimedOut:
    document = InspectionOut.of(row.inspection, base_url)
    types = products.defect_types(session, row.inspection.model_version_id)
    return ClaimedOut(
        **ReviewOut.of(row, reviews.decisions_of(session, [row.id])).model_dump(),
        lease_token=row.lease_token or "",
        inspection=document,
        defect_types=list(dict.fromkeys((*types, reviews.OTHER))),
    )
