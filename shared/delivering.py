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

FAILURES_OF_A_BATCH = 2
"""After which an endpoint gets no more of it."""

GONE = 410


@dataclass(frozen=True)
class Leased:
    """An endpoint that is ours to deliver to."""

    id: str
    token: str


@dataclass(frozen=True)
class Due:
    id: str
    event: Event
    run_at: datetime
    created_at: datetime
    inspection: Inspection | None
    decision: ReviewDecision | None


@dataclass(frozen=True)
class Batch:
    """What is to be sent to an endpoint now, and where and how it wants it by now."""

    url: str
    secrets: tuple[str, ...]
    """Newest first."""
    messages: list[Due]
    is_all: bool
    """Nothing else was due at that moment."""


@dataclass(frozen=True)
class Attempt:
    """How one POST went."""

    delivery_id: str
    run_at: datetime
    """Of the delivery when it was sent: one that was asked for again meanwhile has another."""
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
    """Lease up to `limit` endpoints for which something is due and that nobody delivers to.

    Those that work come before those that fail, so that no number of dead ones keeps them out.
    """
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
        .order_by(WebhookEndpoint.failures)
        .limit(limit)
        .with_for_update(skip_locked=True, key_share=True)
    )
    token = uuid4().hex
    rows = session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id.in_(free.scalar_subquery()))
        .values(lease_token=token, lease_until=func.now() + duration)
        .returning(WebhookEndpoint.id)
        .execution_options(synchronize_session=False)
    ).all()
    return [Leased(row.id, token) for row in rows]


def due(session: Session, endpoint: Leased, *, limit: int) -> Batch | None:
    """What is to be sent to it now, the longest due first; None if nothing, or no longer by us.

    URL and secrets are read each time: a busy endpoint can stay leased for hours. One that fails
    gets only as much as is sent before it is left alone.
    """
    row = session.execute(
        select(
            WebhookEndpoint.url,
            WebhookEndpoint.secret,
            WebhookEndpoint.previous_secret,
            (WebhookEndpoint.previous_until > func.now()).label("both_sign"),
            WebhookEndpoint.failures,
        ).where(
            WebhookEndpoint.id == endpoint.id,
            WebhookEndpoint.lease_token == endpoint.token,
            WebhookEndpoint.status == EndpointStatus.ACTIVE,
        )
    ).one_or_none()
    if row is None:
        return None
    at_most = min(limit, FAILURES_OF_A_BATCH) if row.failures else limit
    messages = session.scalars(
        select(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint.id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            WebhookDelivery.run_at <= func.now(),
        )
        .order_by(WebhookDelivery.run_at)
        .limit(at_most)
        # Not outer joins written here: what an inspection itself joins would then drop a delivery
        # that is about none.
        .options(joinedload(WebhookDelivery.inspection), joinedload(WebhookDelivery.decision))
    ).all()
    if not messages:
        return None
    return Batch(
        row.url,
        (row.secret, row.previous_secret) if row.both_sign else (row.secret,),
        [
            Due(one.id, one.event, one.run_at, one.created_at, one.inspection, one.decision)
            for one in messages
        ],
        is_all=len(messages) < at_most,
    )


def settle(
    session: Session,
    endpoint: Leased,
    attempts: Iterable[Attempt],
    *,
    duration: timedelta,
    is_all: bool,
) -> bool:
    """Record attempts, and what follows from them; True if the endpoint is still ours.

    It is given back here, without another transaction, if that was all that is due to it, or if it
    gets no more for now. Nothing is recorded once the lease is lost: whoever has it now sends those
    again.
    """
    found = session.execute(
        select(WebhookEndpoint, func.now())
        .where(WebhookEndpoint.id == endpoint.id, WebhookEndpoint.lease_token == endpoint.token)
        # Not its key: verdicts that name this endpoint are written meanwhile.
        .with_for_update(key_share=True)
    ).one_or_none()
    if found is None:
        return False
    row, now = found
    log, asked_again = _log(session, attempts, now=now)
    for attempt in log:
        if attempt.is_delivered:
            row.failures, row.failing_since, row.rests_until = 0, None, None
        else:
            _fail(session, row, attempt, is_asked_again=attempt.delivery_id in asked_again, now=now)
    # Last: what arrived beside it does not take back that it wants to be left alone.
    if asked := max((_asked(attempt) for attempt in log), default=timedelta(0)):
        row.rests_until = max(row.rests_until or now, now + asked)
    is_kept = not is_all and row.status is EndpointStatus.ACTIVE and row.rests_until is None
    if is_kept:
        row.lease_until = now + duration
    else:
        row.lease_token = row.lease_until = None
    return is_kept


def extend(session: Session, endpoints: Iterable[Leased], *, duration: timedelta) -> None:
    """Heartbeat: push the end of our leases forward. A lease that we lost stays lost.

    An endpoint that somebody else holds, a long replay for instance, is skipped: the others of
    this deliverer, and what it has not leased yet, must not wait for it.
    """
    leased = list(endpoints)
    held = (
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.id.in_([endpoint.id for endpoint in leased]),
            WebhookEndpoint.lease_token.in_([endpoint.token for endpoint in leased]),
        )
        .with_for_update(key_share=True, skip_locked=True)
    )
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id.in_(held))
        .values(lease_until=func.now() + duration)
        .execution_options(synchronize_session=False)
    )


def release(session: Session, endpoint: Leased) -> None:
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint.id, WebhookEndpoint.lease_token == endpoint.token)
        .values(lease_token=None, lease_until=None)
    )


def _log(
    session: Session, attempts: Iterable[Attempt], *, now: datetime
) -> tuple[list[Attempt], set[str]]:
    """Write the log, and what arrived, in one statement each, however many there are.

    Returns the attempts in their order, without those of deliveries that are deleted meanwhile, and
    the ids of those that were asked for again meanwhile: they are still to be sent.
    """
    made = {attempt.delivery_id: attempt for attempt in attempts}
    rows = session.execute(
        select(WebhookDelivery.id, WebhookDelivery.run_at)
        .where(WebhookDelivery.id.in_(made))
        .with_for_update()
    )
    known = {row.id: row.run_at for row in rows}
    asked_again = {id_ for id_, run_at in known.items() if run_at != made[id_].run_at}
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
    arrived = {attempt.delivery_id for attempt in log if attempt.is_delivered} - asked_again
    if arrived:
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
    return log, asked_again


def _asked(attempt: Attempt) -> timedelta:
    """How long the receiver wants to be left alone."""
    if attempt.is_delivered or attempt.retry_after is None:
        return timedelta(0)
    return min(attempt.retry_after, _LONGEST_RETRY_AFTER)


def _fail(
    session: Session,
    endpoint: WebhookEndpoint,
    attempt: Attempt,
    *,
    is_asked_again: bool,
    now: datetime,
) -> None:
    """What follows from an attempt that failed: a retry, a rest, or the end."""
    delivery = session.get_one(WebhookDelivery, attempt.delivery_id)
    endpoint.failures += 1
    endpoint.failing_since = endpoint.failing_since or now
    if not is_asked_again:
        delivery.attempts += 1
        if delivery.attempts > len(RETRY_AFTER):
            delivery.status, delivery.finished_at = DeliveryStatus.DEAD, now
        else:
            planned = RETRY_AFTER[delivery.attempts - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load
            delivery.run_at = now + max(planned, _asked(attempt))
    if endpoint.failures >= REST_AFTER_FAILURES:
        doublings = min(endpoint.failures - REST_AFTER_FAILURES, 10)
        endpoint.rests_until = now + min(_FIRST_REST * 2**doublings, _LONGEST_REST)
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
    # Gone is gone, also where somebody paused it meanwhile; else their reason stays.
    if endpoint.status is status or endpoint.status is EndpointStatus.DISABLED:
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
