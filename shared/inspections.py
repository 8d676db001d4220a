"""Life of an inspection: with claiming.py all that changes `Inspection.status`.

The row is the truth and the Celery message only a doorbell: a lost or doubled
message costs time, never a verdict. A verdict is written only by whoever holds
the lease. Every change leaves an event in the history.

    queued ──claim──▶ running ──record──▶ succeeded
      ▲  │              │ │
      │  └─cancel─▶ canceled (also from running)
      └──give_back, sweep─┘ └──fail, sweep (last attempt)──▶ failed
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from shared.deliveries import announce
from shared.errors import Conflict, NotFound
from shared.reviews import Held, open_reviews
from shared.scheduling import DATABASE_NOW, ITS_NOW, Moment, at, given
from shared.shadows import ShadowJudgement, keep_shadow_results
from shared.tables import (
    EVENTS,
    INSPECTIONS,
    Inspection,
    InspectionEvent,
    Product,
    Status,
    VerdictSource,
)
from shared.verdicts import FAILED, Outcome, Scores, audited

_GIVEN_BACK = "given_back"
_SHARE_OF_WAIT = 0.125
_LONGEST_DELAY = timedelta(seconds=30)


@dataclass(frozen=True)
class Recorded:
    """The outcome of one judged photo."""

    id: str
    scores: Scores
    outcome: Outcome
    engine: str
    overlay_key: str
    anomaly_map_key: str
    anomaly_regions: list[list[list[float]]]
    """Where the anomaly score is above its threshold: polygons as regions.py says."""
    timings_ms: dict[str, float]
    shadow: ShadowJudgement | None = None


@dataclass(frozen=True)
class Failure:
    """A photo that no further attempt can judge."""

    id: str
    code: str
    message: str


@dataclass(frozen=True)
class Swept:
    requeued: int
    failed: tuple[str, ...]


def record(
    session: Session,
    *,
    token: str,
    results: Sequence[Recorded],
    worker: str,
    now: Moment = DATABASE_NOW,
) -> frozenset[str]:
    """Write the verdicts of those photos whose lease is still ours, and return their ids.

    A worker that wakes up late changes nothing: its rows carry another token or
    are no longer running. Reviews are opened, and shadow results kept, only for the
    rows written here.
    """
    ours = _lock_ours(session, token, [result.id for result in results], now)
    judged = [result for result in results if result.id in ours]
    results = [
        replace(
            result,
            outcome=audited(
                result.outcome,
                share=ours[result.id].audit_share,
                drawn=random.random(),  # noqa: S311 - nobody gains by guessing it
            ),
        )
        for result in judged
    ]
    if not results:
        return frozenset()
    finished_at = ours[results[0].id].now
    session.execute(
        update(INSPECTIONS).where(INSPECTIONS.c.id == bindparam("its_id")),
        [
            {
                "its_id": result.id,
                "status": Status.SUCCEEDED,
                "lease_token": None,
                "lease_until": None,
                "verdict": result.outcome.verdict,
                "disposition": result.outcome.disposition,
                "verdict_source": VerdictSource.MODEL,
                "review_reasons": [reason.value for reason in result.outcome.review_reasons],
                "defect_probability": result.scores.defect_probability,
                "mse": result.scores.mse,
                "anomaly_score": result.scores.anomaly_score,
                "domain_distance": result.scores.domain_distance,
                "quality_reasons": [reason.value for reason in result.scores.quality_reasons],
                "engine": result.engine,
                "overlay_key": result.overlay_key,
                "anomaly_map_key": result.anomaly_map_key,
                "anomaly_regions": result.anomaly_regions,
                "timings_ms": {
                    **result.timings_ms,
                    "total": _milliseconds(finished_at - ours[result.id].created_at),
                },
                "finished_at": finished_at,
            }
            for result in results
        ],
    )
    open_reviews(
        session,
        [
            Held(
                ours[result.id].organisation_id,
                result.id,
                [reason.value for reason in result.outcome.review_reasons],
                ours[result.id].priority,
                ours[result.id].is_on_line,
            )
            for result in results
            if result.outcome.review_reasons
        ],
    )
    keep_shadow_results(
        session,
        # As judged: that a part was drawn for an audit is no opinion of the active version.
        [
            (result.id, ours[result.id].model_version_id, result.outcome, result.shadow)
            for result in judged
            if result.shadow
        ],
    )
    written = [result.id for result in results]
    announce(session, written)
    _note(session, written, actor=worker, event="succeeded")
    return frozenset(written)


def fail(
    session: Session,
    *,
    token: str,
    failures: Sequence[Failure],
    worker: str,
    now: Moment = DATABASE_NOW,
) -> frozenset[str]:
    """End those inspections as failed, held for a person, where the lease is still ours."""
    ours = _lock_ours(session, token, [failure.id for failure in failures])
    failures = [failure for failure in failures if failure.id in ours]
    for failure in failures:
        _end_as_failed(session, [failure.id], failure.code, failure.message, now=now, actor=worker)
    return frozenset(failure.id for failure in failures)


def give_back(
    session: Session,
    *,
    token: str,
    ids: Iterable[str],
    worker: str,
    code: str,
    why: str,
    spend_attempt: bool,
    alone: bool = False,
    delay: timedelta = timedelta(0),
    now: Moment = DATABASE_NOW,
) -> None:
    """Return leased inspections to the queue, due after `delay`; those that have waited for long
    already, after an eighth of that, up to half a minute, or one that cannot be judged would come
    before the others again and again.

    An attempt is spent where the photo may be to blame, and not where the world
    is (storage away, worker stopping). `alone`: from now on judged by itself. `code` and `why`
    stand in the history.
    """
    ours = _lock_ours(session, token, list(ids))
    if not ours:
        return
    session.execute(
        update(Inspection)
        .where(Inspection.id.in_(ours))
        .values(
            status=Status.QUEUED,
            lease_token=None,
            lease_until=None,
            run_at=at(now) + (_longer(delay, now) if delay else delay),
            attempts=Inspection.attempts - (0 if spend_attempt else 1),
            is_alone=Inspection.is_alone | alone,
        )
        .execution_options(synchronize_session=False)
    )
    _note(session, list(ours), actor=worker, event=_GIVEN_BACK, detail={"code": code, "why": why})


def given_back_often(
    session: Session, ids: Iterable[str], *, code: str, times: int
) -> frozenset[str]:
    """Those that have been given back for this reason at least so often, as their history says."""
    counted = (
        select(InspectionEvent.inspection_id)
        .where(
            InspectionEvent.inspection_id.in_(list(ids)),
            InspectionEvent.event == _GIVEN_BACK,
            InspectionEvent.detail["code"].astext == code,
        )
        .group_by(InspectionEvent.inspection_id)
        .having(func.count() >= times)
    )
    return frozenset(session.scalars(counted))


def sweep(session: Session, *, max_attempts: int, now: Moment = DATABASE_NOW) -> Swept:
    """Return the photos of dead workers to the queue, or fail them after the last attempt.

    A lease that ran out means that a whole process died or hung: each of its
    photos may be the cause, so each is judged alone from now on.
    """
    expired = session.execute(
        select(Inspection.id, Inspection.attempts)
        .where(Inspection.status == Status.RUNNING, Inspection.lease_until < now)
        .with_for_update(skip_locked=True)
    ).all()
    again = [row.id for row in expired if row.attempts < max_attempts]
    spent = [row.id for row in expired if row.attempts >= max_attempts]
    if again:
        session.execute(
            update(Inspection)
            .where(Inspection.id.in_(again))
            .values(
                status=Status.QUEUED,
                lease_token=None,
                lease_until=None,
                run_at=at(now),
                is_alone=True,
            )
            .execution_options(synchronize_session=False)
        )
        _note(session, again, actor="sweeper", event="lease_expired")
    if spent:
        _end_as_failed(
            session,
            spent,
            "attempts_exhausted",
            f"On each of {max_attempts} attempts the worker died, hung or lost the database; "
            "a person must decide.",
            now=now,
            actor="sweeper",
        )
    return Swept(len(again), tuple(spent))


def cancel(session: Session, *, organisation_id: str, inspection_id: str, actor: str) -> None:
    """Cancel what is not finished. A worker that is judging it will find its lease gone.

    Raises NotFound, and Conflict if it is finished already; canceling twice is fine.
    """
    row = session.execute(
        select(Inspection.status)
        .where(Inspection.id == inspection_id, Inspection.organisation_id == organisation_id)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no inspection {inspection_id}.")
    if row.status is Status.CANCELED:
        return
    if row.status not in {Status.QUEUED, Status.RUNNING}:
        raise Conflict(
            f"Inspection {inspection_id} has already {row.status}; only a queued or running one "
            "can be canceled.",
            code="already_finished",
        )
    session.execute(
        update(Inspection)
        .where(Inspection.id == inspection_id)
        .values(
            status=Status.CANCELED,
            lease_token=None,
            lease_until=None,
            finished_at=func.clock_timestamp(),
        )
        .execution_options(synchronize_session=False)
    )
    _note(session, [inspection_id], actor=actor, event="canceled")


# Put together once, as in claiming.py.
_OURS = (
    select(
        Inspection.id,
        Inspection.organisation_id,
        Inspection.model_version_id,
        Inspection.created_at,
        ITS_NOW.label("now"),
        Inspection.priority,
        Inspection.line,
        select(Product.audit_share)
        .where(Product.id == Inspection.product_id)
        .scalar_subquery()
        .label("audit_share"),
    )
    .where(
        Inspection.id.in_(bindparam("ids", expanding=True)),
        Inspection.lease_token == bindparam("token"),
        Inspection.status == Status.RUNNING,
    )
    .with_for_update()
)


@dataclass(frozen=True)
class _Ours:
    organisation_id: str
    model_version_id: str
    created_at: datetime
    now: datetime
    priority: int
    is_on_line: bool
    audit_share: float


def _lock_ours(
    session: Session, token: str, ids: Sequence[str], now: Moment = DATABASE_NOW
) -> dict[str, _Ours]:
    """Lock and return those rows that this lease still holds: the fence."""
    rows = session.execute(_OURS, {"ids": ids, "token": token, "now": given(now)})
    return {
        row.id: _Ours(
            row.organisation_id,
            row.model_version_id,
            row.created_at,
            row.now,
            row.priority,
            row.line is not None,
            row.audit_share,
        )
        for row in rows
    }


def _end_as_failed(
    session: Session, ids: Sequence[str], code: str, message: str, *, now: Moment, actor: str
) -> None:
    disposition, reasons = FAILED
    rows = session.execute(
        update(Inspection)
        .where(Inspection.id.in_(ids))
        .values(
            status=Status.FAILED,
            lease_token=None,
            lease_until=None,
            disposition=disposition,
            review_reasons=[reason.value for reason in reasons],
            error_code=code,
            error_message=message,
            finished_at=at(now),
        )
        .returning(Inspection.organisation_id, Inspection.id, Inspection.priority, Inspection.line)
        .execution_options(synchronize_session=False)
    ).all()
    open_reviews(
        session,
        [
            Held(
                row.organisation_id,
                row.id,
                [reason.value for reason in reasons],
                row.priority,
                row.line is not None,
            )
            for row in rows
        ],
    )
    announce(session, ids)
    _note(session, ids, actor=actor, event="failed", detail={"code": code})


def _note(
    session: Session,
    ids: Sequence[str],
    *,
    actor: str,
    event: str,
    detail: dict[str, Any] | None = None,
) -> None:
    session.execute(
        insert(EVENTS),
        [
            {"inspection_id": id_, "actor": actor, "event": event, "detail": detail or {}}
            for id_ in ids
        ],
    )


def _longer(delay: timedelta, now: Moment) -> ColumnElement[timedelta]:
    seconds = func.extract("epoch", at(now) - Inspection.created_at) * _SHARE_OF_WAIT
    waited = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return func.greatest(delay, func.least(waited, _LONGEST_DELAY))


def _milliseconds(duration: timedelta) -> int:
    return max(0, round(duration.total_seconds() * 1000))
