"""Pages about inspections: the live list, and one with all that is known of it."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.deps import BaseUrl
from api.routes.inspections import InspectionId, ListFilters
from api.web.rendering import page
from api.web.visiting import LookerVisitor, PageRoute, ReaderVisitor
from shared import deliveries, inspection_queries, keys, products, reviews
from shared.db import transaction
from shared.inspection_document import DecisionOut, InspectionOut
from shared.tables import Scope, Status
from shared.verdicts import Disposition, Verdict

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_PAGE_SIZE = 30


@router.get("/inspections")
def list_inspections(
    request: Request,
    visitor: LookerVisitor,
    base_url: BaseUrl,
    filters: ListFilters,
    page_token: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    with transaction() as session:
        rows, next_page_token = inspection_queries.page(
            session,
            organisation_id=visitor.caller.organisation_id,
            filters=filters,
            page_size=_PAGE_SIZE,
            page_token=page_token,
        )
        inspections = [InspectionOut.of(row, base_url) for row in rows]
        names = [
            row.name for row in products.list_products(session, visitor.caller.organisation_id)
        ]
    given = {name: value for name, value in request.query_params.items() if name != "page_token"}
    is_part = request.headers.get("HX-Target") in {"rows", "more"}
    return page(
        request,
        "_inspection_rows.html" if is_part else "inspections.html",
        inspections=inspections,
        next_url=f"/inspections?{urlencode({**given, 'page_token': next_page_token})}"
        if next_page_token
        else "",
        given=given,
        query=urlencode(given),
        is_first_page=not page_token,
        products=names,
        verdicts=[verdict.value for verdict in Verdict],
        dispositions=[disposition.value for disposition in Disposition],
        statuses=[status.value for status in Status],
    )


@router.get("/inspections/{inspection_id}")
def inspection(
    request: Request, visitor: ReaderVisitor, inspection_id: InspectionId, base_url: BaseUrl
) -> Response:
    """With `?part=result` the verdict alone, for the page that has just submitted it."""
    caller = visitor.caller
    with transaction() as session:
        row = inspection_queries.get(
            session, organisation_id=caller.organisation_id, inspection_id=inspection_id
        )
        document = InspectionOut.of(row, base_url)
        history = inspection_queries.history(session, inspection_id)
        decisions = reviews.decisions_of(session, [row.review.id] if row.review else [])
        names = {key.id: key.name for key in keys.list_keys(session, caller.organisation_id)}
        told = deliveries.of_inspection(session, inspection_id) if caller.may(Scope.ADMIN) else []
    is_part = request.query_params.get("part") == "result"
    return page(
        request,
        "_result.html" if is_part else "inspection.html",
        is_part=is_part,
        can_review=caller.may(Scope.REVIEW),
        inspection=document,
        history=history,
        decisions=[DecisionOut.of(decision) for decision in decisions],
        deliveries=told,
        names=names,
    )
