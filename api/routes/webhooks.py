"""Webhooks over HTTP: endpoints, what they were sent, and sending it again."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from api.auth import FIRST, Admin
from api.bodies import described, reading
from api.deps import AppGateway
from api.problems import responses
from api.webhook_schemas import (
    DeliveryOut,
    DeliveryPage,
    EndpointIn,
    EndpointOut,
    EndpointsOut,
    NewEndpointOut,
    ReplayIn,
    ReplayOut,
)
from shared import addresses, deliveries, endpoints
from shared.db import transaction
from shared.errors import InvalidInput, NotFound
from shared.ids import is_id
from shared.webhook_events import InspectionEvent, ReviewEvent, TestEvent
from shared.webhook_tables import DeliveryStatus

router = APIRouter(prefix="/v1", tags=["webhooks"], dependencies=[FIRST])
messages = APIRouter()
"""What we send: the `webhooks` of the OpenAPI document."""


def _endpoint_id(endpoint_id: Annotated[str, Path(description="`whe_…`")]) -> str:
    if not is_id(endpoint_id, "whe"):
        raise NotFound("There is no such webhook endpoint.")
    return endpoint_id


def _delivery_id(delivery_id: Annotated[str, Path(description="`msg_…`")]) -> str:
    if not is_id(delivery_id, "msg"):
        raise NotFound("There is no such delivery.")
    return delivery_id


EndpointId = Annotated[str, Depends(_endpoint_id)]
DeliveryId = Annotated[str, Depends(_delivery_id)]


@router.post(
    "/webhooks",
    status_code=201,
    response_model=NewEndpointOut,
    summary="Have inspections told to a URL",
    responses=responses(400, 401, 403, 413, 422, 429, 503),
    openapi_extra=described(EndpointIn),
)
def create(
    caller: Admin, gateway: AppGateway, asked: Annotated[EndpointIn, Depends(reading(EndpointIn))]
) -> NewEndpointOut:
    """The secret is in this answer and nowhere else."""
    _check(asked.url, gateway.settings.webhook_allowed_cidrs)
    with transaction() as session:
        row = endpoints.create(
            session,
            organisation_id=caller.organisation_id,
            url=asked.url,
            events=asked.events,
            filter_=asked.filter.as_filter(),
            description=asked.description,
            actor=caller.key_id,
        )
        return NewEndpointOut.with_secret(row)


@router.get(
    "/webhooks",
    response_model=EndpointsOut,
    summary="All endpoints",
    responses=responses(401, 403, 429, 503),
)
def list_endpoints(caller: Admin) -> EndpointsOut:
    """Oldest first; never their secrets."""
    with transaction() as session:
        rows = endpoints.list_endpoints(session, caller.organisation_id)
        return EndpointsOut(webhooks=[EndpointOut.of(row) for row in rows])


@router.get(
    "/webhooks/{endpoint_id}",
    response_model=EndpointOut,
    responses=responses(401, 403, 404, 429, 503),
)
def get_endpoint(endpoint_id: EndpointId, caller: Admin) -> EndpointOut:
    with transaction() as session:
        return EndpointOut.of(
            endpoints.get(session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id)
        )


@router.put(
    "/webhooks/{endpoint_id}",
    response_model=EndpointOut,
    summary="Change URL, events, filter and description",
    responses=responses(400, 401, 403, 404, 413, 422, 429, 503),
    openapi_extra=described(EndpointIn),
)
def change(
    endpoint_id: EndpointId,
    caller: Admin,
    gateway: AppGateway,
    asked: Annotated[EndpointIn, Depends(reading(EndpointIn))],
) -> EndpointOut:
    """What is left out takes its default; secret and status stay."""
    _check(asked.url, gateway.settings.webhook_allowed_cidrs)
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.change(
            session,
            row,
            url=asked.url,
            events=asked.events,
            filter_=asked.filter.as_filter(),
            description=asked.description,
            actor=caller.key_id,
        )
        return EndpointOut.of(row)


@router.delete(
    "/webhooks/{endpoint_id}",
    status_code=204,
    summary="Delete an endpoint, its deliveries and their log",
    responses=responses(401, 403, 404, 429, 503),
)
def delete(endpoint_id: EndpointId, caller: Admin) -> Response:
    """A long log takes a while; a call that broke off can be repeated."""
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.disable(session, row, "it is being deleted", actor=caller.key_id)
    # Piece by piece: verdicts that it would hear of wait for whoever deletes it.
    is_more = True
    while is_more:
        with transaction() as session:
            is_more = deliveries.forget_some(session, endpoint_id)
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.delete(session, row, actor=caller.key_id)
    return Response(status_code=204)


@router.post(
    "/webhooks/{endpoint_id}/rotate",
    response_model=NewEndpointOut,
    summary="Give it a new secret",
    responses=responses(401, 403, 404, 429, 503),
)
def rotate(endpoint_id: EndpointId, caller: Admin) -> NewEndpointOut:
    """For 24 hours both sign, so that the receiver can be changed without losing a message."""
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.rotate(session, row, actor=caller.key_id)
        return NewEndpointOut.with_secret(row)


@router.post(
    "/webhooks/{endpoint_id}/pause",
    response_model=EndpointOut,
    summary="Let its deliveries wait",
    responses=responses(401, 403, 404, 429, 503),
)
def pause(endpoint_id: EndpointId, caller: Admin) -> EndpointOut:
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.pause(session, row, actor=caller.key_id)
        return EndpointOut.of(row)


@router.post(
    "/webhooks/{endpoint_id}/resume",
    response_model=EndpointOut,
    summary="Deliver again, and at once what waits",
    responses=responses(401, 403, 404, 429, 503),
)
def resume(endpoint_id: EndpointId, caller: Admin) -> EndpointOut:
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        endpoints.resume(session, row, actor=caller.key_id)
        return EndpointOut.of(row)


@router.post(
    "/webhooks/{endpoint_id}/test",
    status_code=202,
    response_model=DeliveryOut,
    summary="Send it a `webhook.test`",
    responses=responses(401, 403, 404, 429, 503),
)
def send_test(endpoint_id: EndpointId, caller: Admin, gateway: AppGateway) -> DeliveryOut:
    """How it went is in the delivery's log a moment later."""
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        delivery = deliveries.announce_test(session, row)
    gateway.deliverers.ring()
    return DeliveryOut.of(delivery, [])


@router.post(
    "/webhooks/{endpoint_id}/replay",
    status_code=202,
    response_model=ReplayOut,
    summary="Tell it once more, by time, lot or serial",
    responses=responses(400, 401, 403, 404, 413, 422, 429, 503),
    openapi_extra=described(ReplayIn),
)
def replay(
    endpoint_id: EndpointId,
    caller: Admin,
    gateway: AppGateway,
    asked: Annotated[ReplayIn, Depends(reading(ReplayIn))],
) -> ReplayOut:
    """Also of what ended before the endpoint existed. What was sent before keeps its id."""
    if not asked.model_dump(exclude_none=True):
        raise InvalidInput("Name at least one of since, until, lot and serial.", field="since")
    with transaction() as session:
        row = endpoints.lock(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        count = deliveries.replay(session, row, **asked.model_dump())
    gateway.deliverers.ring()
    return ReplayOut(deliveries=count)


@router.get(
    "/webhooks/{endpoint_id}/deliveries",
    response_model=DeliveryPage,
    summary="What it was sent, and how each attempt went",
    responses=responses(401, 403, 404, 422, 429, 503),
)
def list_deliveries(
    endpoint_id: EndpointId,
    caller: Admin,
    status: DeliveryStatus | None = None,
    page_size: Annotated[int, Query(ge=1, le=500)] = 50,
    page_token: Annotated[str, Query(max_length=30, pattern="^(msg_[0-9a-z]{26})?$")] = "",
) -> DeliveryPage:
    """Newest first."""
    with transaction() as session:
        endpoint = endpoints.get(
            session, organisation_id=caller.organisation_id, endpoint_id=endpoint_id
        )
        rows, next_page_token = deliveries.page(
            session, endpoint, status=status, page_size=page_size, page_token=page_token
        )
        log = deliveries.attempts_of(session, [row.id for row in rows])
        return DeliveryPage(
            deliveries=[DeliveryOut.of(row, log) for row in rows],
            next_page_token=next_page_token,
        )


@router.get(
    "/deliveries/{delivery_id}",
    response_model=DeliveryOut,
    responses=responses(401, 403, 404, 429, 503),
)
def get_delivery(delivery_id: DeliveryId, caller: Admin) -> DeliveryOut:
    with transaction() as session:
        row = deliveries.get(
            session, organisation_id=caller.organisation_id, delivery_id=delivery_id
        )
        return DeliveryOut.of(row, deliveries.attempts_of(session, [row.id]))


@router.post(
    "/deliveries/{delivery_id}/redeliver",
    status_code=202,
    response_model=DeliveryOut,
    summary="Send it again",
    responses=responses(401, 403, 404, 429, 503),
)
def redeliver(delivery_id: DeliveryId, caller: Admin, gateway: AppGateway) -> DeliveryOut:
    """With the same id, from the first attempt on."""
    with transaction() as session:
        row = deliveries.redeliver(
            session, organisation_id=caller.organisation_id, delivery_id=delivery_id
        )
        answer = DeliveryOut.of(row, deliveries.attempts_of(session, [row.id]))
    gateway.deliverers.ring()
    return answer


@messages.post("inspection.completed", summary="A verdict")
def completed(body: InspectionEvent) -> None:
    """Signed as Standard Webhooks says. At least once, in no promised order: `webhook-id` tells
    you what you have seen. Any 2xx within 15 s is an arrival; else it comes again for three
    days, and 410 ends it.
    """


@messages.post("inspection.failed", summary="No verdict: the part is held")
def failed(body: InspectionEvent) -> None:
    """As `inspection.completed`, with `error` in the place of scores."""


@messages.post("review.decided", summary="A person has decided about a part on hold")
def decided(body: ReviewEvent) -> None:
    """`data.disposition` is now pass or reject, or still hold where the person could not tell. A
    decision that supersedes another one is an event of its own.
    """


@messages.post("webhook.test", summary="Nothing happened")
def test(body: TestEvent) -> None:
    """What `POST /v1/webhooks/{id}/test` sends."""


def _check(url: str, allowed_cidrs: str) -> None:
    """Raise AddressRefused with the reason, before the first delivery finds out."""
    target = addresses.parse_url(url)
    found = addresses.look_up(target.host, target.port)
    addresses.check(target.scheme, target.host, found, addresses.parse_networks(allowed_cidrs))
