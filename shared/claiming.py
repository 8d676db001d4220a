"""A claim: the lease under which a worker judges photos, and its heartbeat."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Interval, Select, bindparam, func, insert, literal, select, text, update
from sqlalchemy.orm import Session

from shared.scheduling import DATABASE_NOW, ITS_NOW, Moment, at, due_photos, given
from shared.tables import EVENTS, INSPECTIONS, Inspection, Product, Status


@dataclass(frozen=True)
class Claimed:
    """An inspection leased to us."""

    id: str
    organisation_id: str
    image_key: str
    image_sha256: str
    model_version_id: str
    shadow_version_id: str | None
    """The product's shadow at the moment of the claim; see shadows.py."""
    attempts: int
    queued_ms: int


@dataclass(frozen=True)
class Batch:
    """What one claim took, under one lease token."""

    token: str
    inspections: tuple[Claimed, ...]
    last_source: str
    """Where the next claim goes on."""


def claim(
    session: Session,
    *,
    limit: int,
    lease: timedelta,
    worker: str,
    after: str = "",
    now: Moment = DATABASE_NOW,
) -> Batch | None:
    """Lease up to `limit` queued inspections to this worker: the most urgent, sources in turn.

    `after`: the source that was served last, as the last batch says it. Rows that another worker
    holds are skipped, not waited for. One whose batch crashed a worker comes alone, so that it
    cannot fail its neighbours. The caller commits; until then nobody else sees the claim. None:
    nothing is due.
    """
    # Forgotten in a crash of the database, the photos are queued as before: no need to wait for the
    # disk, as a photo and its verdict do.
    session.execute(text("SET LOCAL synchronous_commit TO OFF"))
    due = due_photos(session, limit=limit, after=after, now=now)
    if not due:
        return None
    first = due[0]
    # One to be judged alone ends the batch before it: the next claim begins with it.
    others = itertools.takewhile(lambda row: not row.is_alone, due)
    ids = [first.id] if first.is_alone else [row.id for row in others]

    token = uuid4().hex
    rows = session.execute(
        _CLAIM,
        {
            "ids": ids,
            "token": token,
            "lease": lease,
            "now": given(now),
            "worker": worker,
            "detail": {"batch": len(ids)},
        },
    ).all()
    claimed = tuple(
        Claimed(
            id=row.id,
            organisation_id=row.organisation_id,
            image_key=row.image_key,
            image_sha256=row.image_sha256,
            model_version_id=row.model_version_id,
            # Photos accepted before another version was activated may still be its own.
            shadow_version_id=row.shadow_version_id
            if row.shadow_version_id != row.model_version_id
            else None,
            attempts=row.attempts,
            queued_ms=max(0, round(float(row.queued_s) * 1000)),
        )
        for row in rows
    )
    last = next(row.source for row in reversed(due) if row.id in ids)
    return Batch(token, claimed, last)


def extend(
    session: Session, tokens: Sequence[str], *, lease: timedelta, now: Moment = DATABASE_NOW
) -> None:
    """Heartbeat: push the end of our leases forward. A lease that we lost stays lost.

    Rows that a slot of this worker is recording at this moment are skipped:
    waiting for them while it waits for us would be a deadlock.
    """
    held = (
        select(Inspection.id)
        .where(Inspection.lease_token.in_(tokens), Inspection.status == Status.RUNNING)
        .with_for_update(skip_locked=True)
    )
    session.execute(
        update(Inspection)
        .where(Inspection.id.in_(held))
        .values(lease_until=at(now) + lease)
        .execution_options(synchronize_session=False)
    )


def _claiming() -> Select[Any]:
    claimed = (
        update(INSPECTIONS)
        .where(INSPECTIONS.c.id.in_(bindparam("ids", expanding=True)))
        .values(
            status=Status.RUNNING,
            lease_token=bindparam("token"),
            lease_until=ITS_NOW + bindparam("lease", type_=Interval()),
            attempts=INSPECTIONS.c.attempts + 1,
            started_at=ITS_NOW,
        )
        .returning(
            INSPECTIONS.c.id,
            INSPECTIONS.c.organisation_id,
            INSPECTIONS.c.image_key,
            INSPECTIONS.c.image_sha256,
            INSPECTIONS.c.model_version_id,
            select(Product.shadow_version_id)
            .where(Product.id == INSPECTIONS.c.product_id)
            .scalar_subquery()
            .label("shadow_version_id"),
            INSPECTIONS.c.attempts,
            func.extract("epoch", INSPECTIONS.c.started_at - INSPECTIONS.c.created_at).label(
                "queued_s"
            ),
        )
        .cte("claimed")
    )
    event = (
        insert(EVENTS)
        .from_select(
            ["inspection_id", "actor", "event", "detail"],
            select(
                claimed.c.id,
                bindparam("worker"),
                literal("claimed"),
                bindparam("detail", type_=EVENTS.c.detail.type),
            ),
        )
        .cte("event")
    )
    return select(claimed).add_cte(event)


# For every photo, so put together once: that takes longer than sending it.
_CLAIM = _claiming()
