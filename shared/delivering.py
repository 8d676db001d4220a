"""From a due delivery to the record of its attempts: leases, retries, rests, giving up.

As with inspections, the row is the truth. Who delivers leases an endpoint, not a delivery: two
deliverers never send to the same one, and what a killed deliverer had not recorded is sent again.
At least once, in no promised order.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy import func, insert, or_, select, update
from sqlalchemy.orm import Session, joinedload

from shared import audit
from shared.audit import Action
from shared.tables import Inspection, ReviewDecision
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

RETRY_AFTER = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 30, 120, 600, 3600, 4 * 3600, 10 * 3600, 20 * 3600, 36 * 3600)
)
"""From each failed attempt to the next one: three days in all."""
_JITTER = 0.1
_LONGEST_RETRY_AFTER = timedelta(hours=24)
PAUSE_AFTER = timedelta(days=3)
"""Of nothing but failures."""
REST_AFTER_FAILURES = 3
_FIRST_REST = timedelta(seconds=5)
_LONGEST_REST = timedelta(minutes=5)

GONE = 410


@dataclass(frozen=True)
class Leased:
    """An endpoint that is ours to deliver to."""

    id: str
    token: str
    url: str
    secrets: tuple[str, ...]
    """Newest first."""


@dataclass(frozen=True)
class Due:
    id: str
    event: Event
    created_at: datetime
    inspection: Inspection | None
    decision: ReviewDecision | None


@dataclass(frozen=True)
class Attempt:
    """How one POST went."""

    delivery_id: str
    at: datetime
    latency_ms: int
    status_code: int | None = None
    error: str | None = None
    reply: str = ""
    retry_after: timedelta | None = None

    @property
    def is_delivered(self) -> bool:
        return self.error is None and self.status_code is not None and self.status_code // 100 == 2


def lease(session: Session, *, limit: int, duration: timedelta) -> list[Leased]:
    """Lease up to `limit` endpoints for which something is due and that nobody delivers to."""
    waits = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.endpoint_id == WebhookEndpoint.id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.run_at <= func.now(),
        )
        .exists()
    )
    free = (
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.status == EndpointStatus.ACTIVE,
            or_(WebhookEndpoint.lease_until.is_(None), WebhookEndpoint.lease_until < func.now()),
            or_(WebhookEndpoint.rests_until.is_(None), WebhookEndpoint.rests_until <= func.now()),
            waits,
        )
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    token = uuid4().hex
    rows = session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id.in_(free.scalar_subquery()))
        .values(lease_token=token, lease_until=func.now() + duration)
        .returning(
            WebhookEndpoint.id,
            WebhookEndpoint.url,
            WebhookEndpoint.secret,
            WebhookEndpoint.previous_secret,
            (WebhookEndpoint.previous_until > func.now()).label("both_sign"),
        )
        .execution_options(synchronize_session=False)
    ).all()
    return [
        Leased(
            row.id,
            token,
            row.url,
            (row.secret, row.previous_secret) if row.both_sign else (row.secret,),
        )
        for row in rows
    ]


def due(session: Session, endpoint: Leased, *, limit: int) -> list[Due]:
    """What is to be sent to it now, the longest due first."""
    rows = session.scalars(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint.id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.run_at <= func.now(),
        )
        .order_by(WebhookDelivery.run_at)
        .limit(limit)
        # Not outer joins written here: what an inspection itself joins would then drop a delivery
        # that is about none.
        .options(joinedload(WebhookDelivery.inspection), joinedload(WebhookDelivery.decision))
    ).all()
    return [Due(row.id, row.event, row.created_at, row.inspection, row.decision) for row in rows]


def settle(
    session: Session, endpoint: Leased, attempts: Iterable[Attempt], *, duration: timedelta
) -> bool:
    """Record attempts, and what follows from them; True if there may be more right away.

    Nothing is recorded once the lease is lost: whoever has it now sends those again.
    """
    row = session.scalar(
        select(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint.id, WebhookEndpoint.lease_token == endpoint.token)
        .with_for_update()
    )
    if row is None:
        return False
    now = session.scalars(select(func.now())).one()
    for attempt in _log(session, attempts, now=now):
        if attempt.is_delivered:
            row.failures, row.failing_since, row.rests_until = 0, None, None
        else:
            _fail(session, row, attempt, now=now)
    row.lease_until = now + duration
    return row.status is EndpointStatus.ACTIVE and row.rests_until is None


def extend(session: Session, endpoints: Iterable[Leased], *, duration: timedelta) -> None:
    """Heartbeat: push the end of our leases forward. A lease that we lost stays lost."""
    held = list(endpoints)
    session.execute(
        update(WebhookEndpoint)
        .where(
            WebhookEndpoint.id.in_([endpoint.id for endpoint in held]),
            WebhookEndpoint.lease_token.in_([endpoint.token for endpoint in held]),
        )
        .values(lease_until=func.now() + duration)
        .execution_options(synchronize_session=False)
    )


def release(session: Session, endpoint: Leased) -> None:
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint.id, WebhookEndpoint.lease_token == endpoint.token)
        .values(lease_token=None, lease_until=None)
    )


def _log(session: Session, attempts: Iterable[Attempt], *, now: datetime) -> list[Attempt]:
    """Write the log, and what arrived, in one statement each, however many there are.

    Returns the attempts in their order, without those of deliveries that are deleted meanwhile.
    """
    made = {attempt.delivery_id: attempt for attempt in attempts}
    known = set(
        session.scalars(
            select(WebhookDelivery.id).where(WebhookDelivery.id.in_(made)).with_for_update()
        )
    )
    log = sorted((made[id_] for id_ in known), key=lambda attempt: attempt.at)
    if log:
        session.execute(
            insert(WebhookAttempt),
            [
                {
                    "delivery_id": attempt.delivery_id,
                    "at": attempt.at,
                    "status_code": attempt.status_code,
                    "error": attempt.error,
                    "latency_ms": attempt.latency_ms,
                    "reply": attempt.reply,
                }
                for attempt in log
            ],
        )
    if arrived := [attempt.delivery_id for attempt in log if attempt.is_delivered]:
        session.execute(
            update(WebhookDelivery)
            .where(WebhookDelivery.id.in_(arrived))
            .values(
                status=DeliveryStatus.DELIVERED,
                finished_at=now,
                attempts=WebhookDelivery.attempts + 1,
            )
            .execution_options(synchronize_session=False)
        )
    return log


def _fail(session: Session, endpoint: WebhookEndpoint, attempt: Attempt, *, now: datetime) -> None:
    """What follows from an attempt that failed: a retry, a rest, or the end."""
    delivery = session.get_one(WebhookDelivery, attempt.delivery_id)
    delivery.attempts += 1
    endpoint.failures += 1
    endpoint.failing_since = endpoint.failing_since or now
    asked = min(attempt.retry_after or timedelta(0), _LONGEST_RETRY_AFTER)
    if delivery.attempts > len(RETRY_AFTER):
        delivery.status, delivery.finished_at = DeliveryStatus.DEAD, now
    else:
        planned = RETRY_AFTER[delivery.attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load
        delivery.run_at = now + max(planned, asked)
    rest = asked
    if endpoint.failures >= REST_AFTER_FAILURES:
        doublings = min(endpoint.failures - REST_AFTER_FAILURES, 10)
        rest = max(rest, min(_FIRST_REST * 2**doublings, _LONGEST_REST))
    if rest:
        endpoint.rests_until = now + rest
    if attempt.status_code == GONE:
        _stop(session, endpoint, EndpointStatus.DISABLED, "it answered 410 Gone")
        delivery.status, delivery.finished_at = DeliveryStatus.DEAD, now
        session.execute(
            update(WebhookDelivery)
            .where(
                WebhookDelivery.endpoint_id == endpoint.id,
                WebhookDelivery.status == DeliveryStatus.PENDING,
            )
            .values(status=DeliveryStatus.DEAD, finished_at=now)
        )
    elif now - endpoint.failing_since >= PAUSE_AFTER:
        said = attempt.error or f"status {attempt.status_code}"
        _stop(
            session,
            endpoint,
            EndpointStatus.PAUSED,
            f"nothing has arrived since {endpoint.failing_since:%Y-%m-%d %H:%M} UTC; last: {said}",
        )


def _stop(session: Session, endpoint: WebhookEndpoint, status: EndpointStatus, reason: str) -> None:
    if endpoint.status is not EndpointStatus.ACTIVE:
        return
    endpoint.status, endpoint.status_reason = status, reason
    action = Action.WEBHOOK_DISABLED if status is EndpointStatus.DISABLED else Action.WEBHOOK_PAUSED
    audit.note(
        session,
        organisation_id=endpoint.organisation_id,
        actor="deliverer",
        action=action,
        subject=endpoint.id,
        reason=reason,
    )
