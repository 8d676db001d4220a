"""Parts that wait for a person: who looks at which, and what they decide.

The only module that changes `Review` rows, and the outcome of an inspection once a person decided.
As with photos, the row is the truth and a decision counts only from whoever holds the lease.
Decisions are only ever appended: a later one supersedes, and the first can still be read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

from sqlalchemy import ColumnElement, Select, and_, any_, func, insert, or_, select
from sqlalchemy.orm import Session, selectinload

from shared import audit
from shared.audit import Action
from shared.deliveries import announce_decision
from shared.errors import Conflict, InvalidInput, NotFound
from shared.ids import new_id
from shared.products import defect_types
from shared.scheduling import DATABASE_NOW, Moment, at
from shared.tables import (
    ApiKey,
    Inspection,
    InspectionEvent,
    Product,
    Review,
    ReviewDecision,
    ReviewStatus,
    VerdictSource,
)
from shared.verdicts import DISPOSITION_OF, ReviewReason, Verdict

OTHER = "other"
"""The defect type of what no type of the product names."""


@dataclass(frozen=True)
class Held:
    """An inspection that a person must look at."""

    organisation_id: str
    inspection_id: str
    reasons: Sequence[str]
    priority: int
    is_on_line: bool


@dataclass(frozen=True)
class Filters:
    """All given ones must match."""

    product: str | None = None
    line: str | None = None
    station: str | None = None
    lot: str | None = None
    reason: ReviewReason | None = None
    status: ReviewStatus | None = None


@dataclass(frozen=True)
class Decided:
    """What a person says of a part."""

    verdict: Verdict
    defect_type: str | None = None
    region: list[list[list[float]]] | None = None
    comment: str = ""


def open_reviews(session: Session, held: Iterable[Held]) -> None:
    """Open a review for each held inspection.

    Called in the transaction that holds the parts, so that none is held unseen.
    """
    rows = [
        {
            "id": new_id("rev"),
            "organisation_id": one.organisation_id,
            "inspection_id": one.inspection_id,
            "reasons": list(one.reasons),
            "priority": one.priority,
            "is_on_line": one.is_on_line,
        }
        for one in held
    ]
    if rows:
        session.execute(insert(Review), rows)


def claim_next(
    session: Session,
    *,
    organisation_id: str,
    reviewer: str,
    filters: Filters,
    lease: timedelta,
    now: Moment = DATABASE_NOW,
) -> Review | None:
    """Lease the most urgent review that nobody looks at: priority, lines before the rest, age.

    What this reviewer skipped comes after everything else. Rows that another reviewer is
    claiming at this moment are skipped, not waited for. None: nothing waits.
    """
    waiting = _matching(filters, organisation_id).where(Review.decided_at.is_(None), _is_free(now))
    has_skipped = any_(Review.skipped_by) == reviewer
    for turn in (~has_skipped, has_skipped):
        row = session.scalar(
            waiting.where(turn)
            .order_by(Review.priority.desc(), Review.is_on_line.desc(), Review.id)
            .limit(1)
            .with_for_update(of=Review, skip_locked=True)
        )
        if row is not None:
            return _lease(session, row, reviewer, lease, now)
    return None


def claim(
    session: Session,
    *,
    organisation_id: str,
    review_id: str,
    reviewer: str,
    lease: timedelta,
    now: Moment = DATABASE_NOW,
) -> Review:
    """Lease this review, also a decided one, to decide it anew.

    One's own lease is taken over: what another window of the same person holds is lost to it.
    Raises NotFound, and Conflict while somebody else holds it.
    """
    row = _lock(session, organisation_id, review_id)
    is_free = session.scalars(select(_is_free(now)).where(Review.id == review_id)).one()
    if not is_free and row.claimed_by != reviewer:
        key = session.get(ApiKey, row.claimed_by)
        raise Conflict(
            f"{key.name if key else row.claimed_by} looks at this part, until "
            f"{row.lease_until:%H:%M:%S} UTC unless they go on.",
            code="held_by_another",
        )
    return _lease(session, row, reviewer, lease, now)


def extend(
    session: Session,
    *,
    organisation_id: str,
    review_id: str,
    lease_token: str,
    lease: timedelta,
    now: Moment = DATABASE_NOW,
) -> Review:
    """The reviewer is still at it. Raises NotFound, and Conflict once the lease is lost."""
    row = _lock_ours(session, organisation_id, review_id, lease_token, now)
    row.lease_until = session.scalars(select(at(now) + lease)).one()
    session.flush()
    return row


def release(
    session: Session,
    *,
    organisation_id: str,
    review_id: str,
    lease_token: str,
    skip: bool = False,
    now: Moment = DATABASE_NOW,
) -> None:
    """Put it back undecided; `skip`: and offer it to others first.

    Raises NotFound, and Conflict once the lease is lost.
    """
    row = _lock_ours(session, organisation_id, review_id, lease_token, now)
    if skip and row.claimed_by is not None and row.claimed_by not in row.skipped_by:
        row.skipped_by = [*row.skipped_by, row.claimed_by]
    row.lease_token = row.lease_until = row.claimed_by = None
    session.flush()


def decide(
    session: Session,
    *,
    organisation_id: str,
    review_id: str,
    lease_token: str,
    reviewer: str,
    decided: Decided,
    now: Moment = DATABASE_NOW,
) -> Review:
    """Append this decision; verdict and disposition of the inspection follow it.

    The endpoints that want to hear of it are written down in the same transaction. Raises
    NotFound, InvalidInput, and Conflict once the lease is lost: then nothing is changed.
    """
    row = _lock_ours(session, organisation_id, review_id, lease_token, now)
    inspection = row.inspection
    _check(session, inspection, decided)
    decision = ReviewDecision(
        id=new_id("dec"),
        review_id=review_id,
        organisation_id=organisation_id,
        reviewer=reviewer,
        verdict=decided.verdict,
        defect_type=decided.defect_type,
        region=decided.region,
        comment=decided.comment,
        at=session.scalars(select(at(now))).one(),
    )
    session.add(decision)
    session.flush()
    supersedes = row.decision_id
    row.decided_at = row.decided_at or decision.at
    row.decision_id, row.decision = decision.id, decision
    row.lease_token = row.lease_until = row.claimed_by = None
    inspection.verdict = decided.verdict
    inspection.disposition = DISPOSITION_OF[decided.verdict]
    inspection.verdict_source = VerdictSource.PERSON
    session.add(
        InspectionEvent(
            inspection_id=inspection.id,
            actor=reviewer,
            event="decided",
            detail={
                "decision": decision.id,
                "verdict": decided.verdict.value,
                "defect_type": decided.defect_type,
                "comment": decided.comment,
                "supersedes": supersedes,
            },
        )
    )
    audit.note(
        session,
        organisation_id=organisation_id,
        actor=reviewer,
        action=Action.REVIEW_DECIDED,
        subject=review_id,
        inspection=inspection.id,
        decision=decision.id,
        verdict=decided.verdict.value,
    )
    session.flush()
    announce_decision(session, decision.id)
    return row


def get(session: Session, *, organisation_id: str, review_id: str) -> Review:
    """Raises NotFound, also for what belongs to another organisation."""
    row = session.scalar(
        select(Review).where(Review.id == review_id, Review.organisation_id == organisation_id)
    )
    if row is None:
        raise NotFound(f"There is no review {review_id}.")
    return row


def decisions_of(session: Session, review_ids: Sequence[str]) -> list[ReviewDecision]:
    """Oldest first; the last one of a review is in force."""
    return list(
        session.scalars(
            select(ReviewDecision)
            .where(ReviewDecision.review_id.in_(review_ids))
            .order_by(ReviewDecision.review_id, ReviewDecision.at)
        )
    )


def page(
    session: Session,
    *,
    organisation_id: str,
    filters: Filters,
    page_size: int,
    page_token: str = "",
) -> tuple[list[Review], str]:
    """Oldest first, and the token of the next page: empty on the last."""
    query = _matching(filters, organisation_id)
    if page_token:
        query = query.where(Review.id > page_token)
    rows = list(session.scalars(query.order_by(Review.id).limit(page_size + 1)))
    if len(rows) <= page_size:
        return rows, ""
    return rows[:page_size], rows[page_size - 1].id


def count_waiting(session: Session, *, organisation_id: str, filters: Filters) -> int:
    """How many wait undecided, whether or not somebody looks at them."""
    waiting = _matching(filters, organisation_id).where(Review.decided_at.is_(None))
    # Loading options and columns of the rows themselves are of no use to a count.
    return session.scalars(
        select(func.count()).select_from(waiting.with_only_columns(Review.id).subquery())
    ).one()


def count_by_reason(session: Session, *, organisation_id: str) -> dict[ReviewReason, int]:
    """How many undecided ones there are for each reason; one may have several."""
    reasons = (
        select(func.unnest(Review.reasons).label("reason"))
        .where(Review.organisation_id == organisation_id, Review.decided_at.is_(None))
        .subquery()
    )
    rows = session.execute(
        select(reasons.c.reason, func.count()).group_by(reasons.c.reason).order_by(reasons.c.reason)
    )
    return {ReviewReason(reason): count for reason, count in rows}


def _matching(filters: Filters, organisation_id: str) -> Select[Review]:
    query = (
        select(Review)
        .join(Inspection, Inspection.id == Review.inspection_id)
        .where(Review.organisation_id == organisation_id)
    )
    if filters.product is not None:
        query = query.where(Inspection.product.has(Product.name == filters.product))
    for column, wanted in (
        (Inspection.line, filters.line),
        (Inspection.station, filters.station),
        (Inspection.lot, filters.lot),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.reason is not None:
        query = query.where(any_(Review.reasons) == filters.reason.value)
    match filters.status:
        case ReviewStatus.DECIDED:
            query = query.where(Review.decided_at.is_not(None))
        case ReviewStatus.OPEN:
            query = query.where(Review.decided_at.is_(None), _is_free(DATABASE_NOW))
        case ReviewStatus.CLAIMED:
            query = query.where(Review.decided_at.is_(None), ~_is_free(DATABASE_NOW))
    return query


def _is_free(now: Moment) -> ColumnElement[bool]:
    """Nobody looks at it: a lease that ran out is none."""
    return or_(Review.lease_until.is_(None), Review.lease_until <= at(now))


def _lease(session: Session, row: Review, reviewer: str, lease: timedelta, now: Moment) -> Review:
    until = session.scalars(select(at(now) + lease)).one()
    row.lease_token, row.lease_until, row.claimed_by = uuid4().hex, until, reviewer
    session.flush()
    return row


def _lock(session: Session, organisation_id: str, review_id: str) -> Review:
    row = session.scalar(
        select(Review)
        .where(Review.id == review_id, Review.organisation_id == organisation_id)
        # By a statement of its own: where the row was waited for, PostgreSQL looks at it again, but
        # not at what is joined to it, and the decision that came meanwhile would be missing.
        .options(selectinload(Review.decision))
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise NotFound(f"There is no review {review_id}.")
    return row


def _lock_ours(
    session: Session, organisation_id: str, review_id: str, lease_token: str, now: Moment
) -> Review:
    """The fence: only whoever holds the lease goes on."""
    row = _lock(session, organisation_id, review_id)
    is_ours = session.scalars(
        select(and_(Review.lease_token == lease_token, Review.lease_until > at(now))).where(
            Review.id == review_id
        )
    ).one()
    if not is_ours:
        raise Conflict(
            "Your lease of this part has run out, or somebody else has taken it; nothing was "
            "changed. Claim it again.",
            code="lease_lost",
        )
    return row


def _check(session: Session, inspection: Inspection, decided: Decided) -> None:
    """Raise InvalidInput for a decision that does not fit together."""
    if decided.verdict is not Verdict.DEFECTIVE:
        for field in ("defect_type", "region"):
            if getattr(decided, field) is not None:
                raise InvalidInput(f"Only a defective part has a {field}.", field=field)
        return
    known = (*defect_types(session, inspection.model_version_id), OTHER)
    if decided.defect_type is not None and decided.defect_type not in known:
        raise InvalidInput(
            f"{decided.defect_type!r} is no defect type of this product. Known: "
            f"{', '.join(dict.fromkeys(known))}.",
            field="defect_type",
        )
