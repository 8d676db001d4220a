"""Pages about webhooks: who hears of what, and how each delivery went."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.deps import AppGateway
from api.routes import products as products_api
from api.routes import webhooks as api
from api.routes.webhooks import DeliveryId, EndpointId
from api.web import forms, once
from api.web.rendering import page
from api.web.visiting import AdminVisitor, PageRoute
from api.webhook_schemas import EndpointIn, ReplayIn
from shared import endpoints
from shared.db import transaction
from shared.delivering import RETRY_AFTER
from shared.errors import Rejected
from shared.sessions import Visitor
from shared.verdicts import Disposition
from shared.webhook_tables import DeliveryStatus, Event

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_PAGE_SIZE = 20
_MOST_LOOKS = 60
"""How often a page asks how a test went before it says that nobody delivers."""
_EVENTS = {
    Event.INSPECTION_COMPLETED: "there is a verdict",
    Event.INSPECTION_FAILED: "there is none: the part is held",
    Event.REVIEW_DECIDED: "a person has decided about a part on hold",
}
_DONE = {
    "changed": "The change is in force from the next delivery on.",
    "paused": "It is paused: what it should hear waits.",
    "resumed": "It is delivered to again, and at once what waited.",
    "deleted": "The endpoint is deleted, with its deliveries and their log.",
    "redelivered": "It is sent again, with the same webhook-id.",
}

Status = Annotated[DeliveryStatus | None, Query()]
PageToken = Annotated[str, Query(max_length=30, pattern="^(msg_[0-9a-z]{26})?$")]


@router.get("/webhooks")
def list_endpoints(request: Request, visitor: AdminVisitor, did: str = "") -> Response:
    return _list(request, visitor, notice=_DONE.get(did, ""))


@router.post("/webhooks")
def create(request: Request, visitor: AdminVisitor, gateway: AppGateway) -> Response:
    try:
        made = api.create(visitor.caller, gateway, _asked(request))
    except Rejected as error:
        return _list(request, visitor, problem=str(error))
    return once.show(request, f"/webhooks/{made.id}", made.secret)


@router.get("/webhooks/{endpoint_id}")
def show(
    request: Request,
    visitor: AdminVisitor,
    endpoint_id: EndpointId,
    status: Status = None,
    page_token: PageToken = "",
    did: str = "",
    test: PageToken = "",
    replayed: Annotated[int | None, Query(ge=0, le=10**6)] = None,
) -> Response:
    notice = _DONE.get(did, "")
    if replayed is not None:
        notice = f"{replayed:,} deliveries are on their way." if replayed else _NOTHING_TO_REPLAY
    secret = once.read(request)
    answer = _one(
        request,
        visitor,
        endpoint_id,
        notice=notice,
        secret=secret,
        status=status,
        page_token=page_token,
        test=test,
    )
    return once.forget(answer, request.url.path) if secret else answer


@router.post("/webhooks/{endpoint_id}")
def change(
    request: Request, visitor: AdminVisitor, endpoint_id: EndpointId, gateway: AppGateway
) -> Response:
    try:
        api.change(endpoint_id, visitor.caller, gateway, _asked(request))
    except Rejected as error:
        return _one(request, visitor, endpoint_id, problem=str(error))
    return forms.done(request.url.path, did="changed")


@router.post("/webhooks/{endpoint_id}/pause")
def pause(visitor: AdminVisitor, endpoint_id: EndpointId) -> Response:
    api.pause(endpoint_id, visitor.caller)
    return forms.done(f"/webhooks/{endpoint_id}", did="paused")


@router.post("/webhooks/{endpoint_id}/resume")
def resume(visitor: AdminVisitor, endpoint_id: EndpointId) -> Response:
    api.resume(endpoint_id, visitor.caller)
    return forms.done(f"/webhooks/{endpoint_id}", did="resumed")


@router.post("/webhooks/{endpoint_id}/rotate")
def rotate(request: Request, visitor: AdminVisitor, endpoint_id: EndpointId) -> Response:
    made = api.rotate(endpoint_id, visitor.caller)
    return once.show(request, f"/webhooks/{endpoint_id}", made.secret)


@router.post("/webhooks/{endpoint_id}/delete")
def delete(visitor: AdminVisitor, endpoint_id: EndpointId) -> Response:
    api.delete(endpoint_id, visitor.caller)
    return forms.done("/webhooks", did="deleted")


@router.post("/webhooks/{endpoint_id}/test")
def send_test(visitor: AdminVisitor, endpoint_id: EndpointId, gateway: AppGateway) -> Response:
    delivery = api.send_test(endpoint_id, visitor.caller, gateway)
    return forms.done(f"/webhooks/{endpoint_id}", test=delivery.id)


@router.post("/webhooks/{endpoint_id}/replay")
def replay(
    request: Request, visitor: AdminVisitor, endpoint_id: EndpointId, gateway: AppGateway
) -> Response:
    given = {name: forms.text(request, name) or None for name in ReplayIn.model_fields}
    try:
        sent = api.replay(endpoint_id, visitor.caller, gateway, forms.as_input(ReplayIn, given))
    except Rejected as error:
        return _one(request, visitor, endpoint_id, problem=f"Nothing was sent. {error}")
    return forms.done(f"/webhooks/{endpoint_id}", replayed=sent.deliveries)


@router.get("/deliveries/{delivery_id}/outcome")
def outcome(
    request: Request,
    visitor: AdminVisitor,
    delivery_id: DeliveryId,
    looks: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> Response:
    """Part of the page: how a test went, or that it is on its way."""
    delivery = api.get_delivery(delivery_id, visitor.caller)
    endpoint = api.get_endpoint(delivery.endpoint_id, visitor.caller)
    answer = page(
        request,
        "_outcome.html",
        delivery=delivery,
        endpoint=endpoint,
        looks=looks + 1,
        is_over=looks >= _MOST_LOOKS,
    )
    if delivery.log:
        # The rest of the page changes with it.
        answer.headers["HX-Trigger"] = "told"
    return answer


@router.post("/deliveries/{delivery_id}/redeliver")
def redeliver(visitor: AdminVisitor, delivery_id: DeliveryId, gateway: AppGateway) -> Response:
    delivery = api.redeliver(delivery_id, visitor.caller, gateway)
    return forms.done(f"/webhooks/{delivery.endpoint_id}", did="redelivered")


_NOTHING_TO_REPLAY = "Nothing matches, so nothing is sent."


def _asked(request: Request) -> EndpointIn:
    return forms.as_input(
        EndpointIn,
        {
            "url": forms.text(request, "url"),
            "events": forms.several(request, "events"),
            "description": forms.text(request, "description"),
            "filter": {
                "products": forms.several(request, "products"),
                "lines": forms.words(request, "lines"),
                "stations": forms.words(request, "stations"),
                "dispositions": forms.several(request, "dispositions"),
            },
        },
    )


def _typed(request: Request) -> dict[str, object]:
    """What was typed, for the form that is shown again."""
    return {
        "url": forms.text(request, "url"),
        "description": forms.text(request, "description"),
        "events": forms.several(request, "events"),
        "products": forms.several(request, "products"),
        "lines": forms.text(request, "lines"),
        "stations": forms.text(request, "stations"),
        "dispositions": forms.several(request, "dispositions"),
    }


def _choices(visitor: Visitor) -> dict[str, object]:
    return {
        "events": _EVENTS,
        "products": [row.name for row in products_api.list_products(visitor.caller).products],
        "dispositions": [disposition.value for disposition in Disposition],
    }


def _list(request: Request, visitor: Visitor, *, notice: str = "", problem: str = "") -> Response:
    empty = {"events": list(_EVENTS), "products": [], "dispositions": []} | dict.fromkeys(
        ("url", "description", "lines", "stations"), ""
    )
    return page(
        request,
        "webhooks.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
        notice=notice,
        problem=problem,
        endpoints=api.list_endpoints(visitor.caller).webhooks,
        choices=_choices(visitor),
        given=_typed(request) if problem else empty,
    )


def _one(
    request: Request,
    visitor: Visitor,
    endpoint_id: str,
    *,
    notice: str = "",
    problem: str = "",
    secret: str = "",
    status: DeliveryStatus | None = None,
    page_token: str = "",
    test: str = "",
) -> Response:
    caller = visitor.caller
    endpoint = api.get_endpoint(endpoint_id, caller)
    found = api.list_deliveries(endpoint_id, caller, status, _PAGE_SIZE, page_token)
    following = {"page_token": found.next_page_token} | ({"status": status} if status else {})
    is_part = request.headers.get("HX-Target") in {"deliveries", "more"}
    given = {
        "url": endpoint.url,
        "description": endpoint.description,
        "events": endpoint.events,
        "products": endpoint.filter.products,
        "lines": ", ".join(endpoint.filter.lines),
        "stations": ", ".join(endpoint.filter.stations),
        "dispositions": [disposition.value for disposition in endpoint.filter.dispositions],
    }
    # A form other than this endpoint's own may have been refused.
    is_changing = bool(problem) and request.url.path == f"/webhooks/{endpoint_id}"
    return page(
        request,
        "_deliveries.html" if is_part else "webhook.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK,
        notice=notice,
        problem=problem,
        endpoint=endpoint,
        secret=secret if _is_secret_of(visitor, endpoint_id, secret) else "",
        choices=_choices(visitor),
        given=_typed(request) if is_changing else given,
        is_changing=is_changing,
        test=test,
        deliveries=found.deliveries,
        status_wanted=status.value if status else "",
        statuses=[one.value for one in DeliveryStatus],
        is_first_page=not page_token,
        next_url=f"/webhooks/{endpoint_id}?{urlencode(following)}" if found.next_page_token else "",
        most_attempts=len(RETRY_AFTER) + 1,
    )


def _is_secret_of(visitor: Visitor, endpoint_id: str, secret: str) -> bool:
    if not secret:
        return False
    with transaction() as session:
        row = endpoints.get(
            session, organisation_id=visitor.caller.organisation_id, endpoint_id=endpoint_id
        )
        return row.secret == secret
