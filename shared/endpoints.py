"""Webhook endpoints: who hears of what. The only module that adds or changes them on request.

What befalls an endpoint while it is delivered to (failures, 410, leases) is in deliveries.py.
"""

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, exists, func, select, update
from sqlalchemy.orm import Session

from shared import audit
from shared.audit import Action
from shared.errors import InvalidInput, NotFound
from shared.ids import new_id
from shared.tables import Organisation
from shared.verdicts import Disposition
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    Event,
    WebhookDelivery,
    WebhookEndpoint,
)

OVERLAP = timedelta(hours=24)
"""After a rotation the old secret signs as well for so long."""
MOST_ENDPOINTS = 100
SUBSCRIBABLE = frozenset(Event) - {Event.TEST}


@dataclass(frozen=True)
class Filter:
    """All that is given must match; what is empty matches everything."""

    products: Sequence[str] = ()
    lines: Sequence[str] = ()
    stations: Sequence[str] = ()
    dispositions: Sequence[Disposition] = ()


def create(
    session: Session,
    *,
    organisation_id: str,
    url: str,
    events: Iterable[Event],
    filter_: Filter,
    description: str,
    actor: str,
) -> WebhookEndpoint:
    """A new endpoint with its secret. The caller has checked the URL. Raises InvalidInput."""
    # One after another, so that two at once do not both fit in.
    session.execute(
        select(Organisation.id).where(Organisation.id == organisation_id).with_for_update()
    )
    if len(list_endpoints(session, organisation_id)) >= MOST_ENDPOINTS:
        raise InvalidInput(
            f"There are {MOST_ENDPOINTS} endpoints already; delete one first.",
            code="too_many_endpoints",
        )
    row = WebhookEndpoint(
        id=new_id("whe"),
        organisation_id=organisation_id,
        secret=_new_secret(),
        status=EndpointStatus.ACTIVE,
        **_fields(url, events, filter_, description),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    _note(session, row, Action.WEBHOOK_CREATED, actor, url=url)
    return row


def change(
    session: Session,
    row: WebhookEndpoint,
    *,
    url: str,
    events: Iterable[Event],
    filter_: Filter,
    description: str,
    actor: str,
) -> None:
    """Replace what was given when it was created; secret and status stay."""
    before = row.url
    for name, value in _fields(url, events, filter_, description).items():
        setattr(row, name, value)
    _note(session, row, Action.WEBHOOK_CHANGED, actor, before=before, after=url)


def list_endpoints(session: Session, organisation_id: str) -> list[WebhookEndpoint]:
    """Oldest first."""
    return list(
        session.scalars(
            select(WebhookEndpoint)
            .where(WebhookEndpoint.organisation_id == organisation_id)
            .order_by(WebhookEndpoint.id)
        )
    )


def is_any_active(session: Session) -> bool:
    """Of any organisation: whether a deliverer is needed."""
    active = exists().where(WebhookEndpoint.status == EndpointStatus.ACTIVE)
    return session.scalars(select(active)).one()


def get(session: Session, *, organisation_id: str, endpoint_id: str) -> WebhookEndpoint:
    """Raises NotFound, also for what belongs to another organisation."""
    return _found(session.scalar(_one(organisation_id, endpoint_id)), endpoint_id)


def lock(session: Session, *, organisation_id: str, endpoint_id: str) -> WebhookEndpoint:
    """As `get`, to be changed."""
    # Not its key: a long replay would hold up every verdict that is to be told to it.
    row = session.scalar(_one(organisation_id, endpoint_id).with_for_update(key_share=True))
    return _found(row, endpoint_id)


def rotate(session: Session, row: WebhookEndpoint, *, actor: str) -> None:
    """A new secret; the old one signs beside it for 24 hours."""
    row.previous_secret = row.secret
    row.previous_until = session.scalars(select(func.now() + OVERLAP)).one()
    row.secret = _new_secret()
    _note(session, row, Action.WEBHOOK_ROTATED, actor)


def pause(session: Session, row: WebhookEndpoint, *, actor: str) -> None:
    """What it should hear waits from now on."""
    if row.status is EndpointStatus.ACTIVE:
        row.status, row.status_reason = EndpointStatus.PAUSED, "paused on request"
        _note(session, row, Action.WEBHOOK_PAUSED, actor)


def resume(session: Session, row: WebhookEndpoint, *, actor: str) -> None:
    """Deliver again, and at once what waits."""
    if row.status is not EndpointStatus.ACTIVE:
        row.status, row.status_reason = EndpointStatus.ACTIVE, None
        row.failures, row.failing_since, row.rests_until = 0, None, None
        session.execute(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.endpoint_id == row.id,
                WebhookDelivery.status == DeliveryStatus.PENDING,
                WebhookDelivery.run_at > func.now(),
            )
            .values(run_at=func.now())
            .execution_options(synchronize_session=False)
        )
        _note(session, row, Action.WEBHOOK_RESUMED, actor)


def disable(session: Session, row: WebhookEndpoint, reason: str, *, actor: str) -> None:
    """It hears nothing more, and nothing is written for it."""
    row.status, row.status_reason = EndpointStatus.DISABLED, reason
    _note(session, row, Action.WEBHOOK_DISABLED, actor, reason=reason)


def delete(session: Session, row: WebhookEndpoint, *, actor: str) -> None:
    """With its deliveries and their log."""
    _note(session, row, Action.WEBHOOK_DELETED, actor, url=row.url)
    session.delete(row)


def _one(organisation_id: str, endpoint_id: str) -> Select[WebhookEndpoint]:
    return select(WebhookEndpoint).where(
        WebhookEndpoint.id == endpoint_id, WebhookEndpoint.organisation_id == organisation_id
    )


def _found(row: WebhookEndpoint | None, endpoint_id: str) -> WebhookEndpoint:
    if row is None:
        raise NotFound(f"There is no webhook endpoint {endpoint_id}.")
    return row


def _fields(url: str, events: Iterable[Event], filter_: Filter, description: str) -> dict[str, Any]:
    return {
        "url": url,
        "description": description,
        "events": sorted(event.value for event in events),
        "products": sorted(filter_.products),
        "lines": sorted(filter_.lines),
        "stations": sorted(filter_.stations),
        "dispositions": sorted(disposition.value for disposition in filter_.dispositions),
    }


def _new_secret() -> str:
    """256 random bits in the form that Standard Webhooks wants."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def _note(
    session: Session, row: WebhookEndpoint, action: Action, actor: str, **detail: Any
) -> None:
    audit.note(
        session,
        organisation_id=row.organisation_id,
        actor=actor,
        action=action,
        subject=row.id,
        **detail,
    )
