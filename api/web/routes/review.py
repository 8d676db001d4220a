"""The page where people decide, and the list of who looks at what."""

from fastapi import APIRouter, Request, Response

from api.deps import AppGateway
from api.web.rendering import page
from api.web.visiting import PageRoute, ReviewerVisitor
from shared import keys, products, reviews
from shared.db import transaction
from shared.reviews import Filters
from shared.tables import ReviewStatus
from shared.verdicts import ReviewReason

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_MOST_SHOWN = 20


@router.get("/review")
def review(request: Request, visitor: ReviewerVisitor, gateway: AppGateway) -> Response:
    """The parts themselves come over the API, as the reviewer goes on."""
    with transaction() as session:
        names = [
            row.name for row in products.list_products(session, visitor.caller.organisation_id)
        ]
    return page(
        request,
        "review.html",
        products=names,
        reasons=[reason.value for reason in ReviewReason],
        lease_seconds=gateway.settings.review_lease_seconds,
    )


@router.get("/review/waiting")
def waiting(request: Request, visitor: ReviewerVisitor) -> Response:
    """Part of the page: how many wait, and who looks at which."""
    organisation_id = visitor.caller.organisation_id
    with transaction() as session:
        held, _ = reviews.page(
            session,
            organisation_id=organisation_id,
            filters=Filters(status=ReviewStatus.CLAIMED),
            page_size=_MOST_SHOWN,
        )
        counts = reviews.count_by_reason(session, organisation_id=organisation_id)
        total = reviews.count_waiting(session, organisation_id=organisation_id, filters=Filters())
        names = {key.id: key.name for key in keys.list_keys(session, organisation_id)}
        inspections = {row.id: row.inspection for row in held}
    return page(
        request,
        "_waiting.html",
        total=total,
        counts=counts,
        held=held,
        inspections=inspections,
        names=names,
    )
