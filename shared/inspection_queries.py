"""Reading inspections: one, a page of many, the history. Changes nothing."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, func, select, tuple_
from sqlalchemy.orm import Session

from shared.errors import NotFound
from shared.ids import is_id
from shared.paging import not_ours
from shared.tables import (
    TERMINAL,
    Inspection,
    InspectionEvent,
    Product,
    Status,
    VerdictSource,
)
from shared.verdicts import Disposition, Verdict

# Put together once: a poll does nothing else.
_ONE = select(Inspection).where(
    Inspection.id == bindparam("id"),
    Inspection.organisation_id == bindparam("organisation_id"),
)


@dataclass(frozen=True)
class Filters:
    """All given ones must match."""

    serial: str | None = None
    lot: str | None = None
    line: str | None = None
    station: str | None = None
    product: str | None = None
    verdict: Verdict | None = None
    disposition: Disposition | None = None
    status: Status | None = None
    verdict_source: VerdictSource | None = None
    batch: str | None = None
    since: datetime | None = None
    """Accepted at or after."""
    until: datetime | None = None
    """Accepted before."""


def get(session: Session, *, organisation_id: str, inspection_id: str) -> Inspection:
    """Raises NotFound, also for what belongs to another organisation."""
    row = session.scalar(_ONE, {"id": inspection_id, "organisation_id": organisation_id})
    if row is None:
        raise NotFound(f"There is no inspection {inspection_id}.")
    return row


def count_queued(session: Session, *, most: int) -> dict[str, int]:
    """Queued photos by the key that submitted them, counted up to `most` in all."""
    some = select(Inspection.source).where(Inspection.status == Status.QUEUED).limit(most)
    # The source begins with the key: accepting.py writes it.
    key = func.split_part(some.subquery().c.source, "/", 1)
    counts = session.execute(select(key, func.count()).group_by(key))
    return {row[0]: row[1] for row in counts}


def page(
    session: Session,
    *,
    organisation_id: str,
    filters: Filters,
    page_size: int,
    page_token: str = "",
) -> tuple[list[Inspection], str]:
    """Newest first, and the token of the next page: empty on the last.

    A cursor, not an offset: photos that arrive meanwhile shift nothing.
    """
    query = select(Inspection).where(Inspection.organisation_id == organisation_id)
    for column, wanted in (
        (Inspection.serial, filters.serial),
        (Inspection.lot, filters.lot),
        (Inspection.line, filters.line),
        (Inspection.station, filters.station),
        (Inspection.verdict, filters.verdict),
        (Inspection.disposition, filters.disposition),
        (Inspection.status, filters.status),
        (Inspection.verdict_source, filters.verdict_source),
        (Inspection.batch_id, filters.batch),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if filters.product is not None:
        query = query.where(Inspection.product.has(Product.name == filters.product))
    if filters.since is not None:
        query = query.where(Inspection.created_at >= filters.since)
    if filters.until is not None:
        query = query.where(Inspection.created_at < filters.until)
    if page_token:
        query = query.where(
            tuple_(Inspection.created_at, Inspection.id) < tuple_(*read_token(page_token))
        )
    rows = list(
        session.scalars(
            query.order_by(Inspection.created_at.desc(), Inspection.id.desc()).limit(page_size + 1)
        )
    )
    if len(rows) <= page_size:
        return rows, ""
    rows = rows[:page_size]
    return rows, make_token(rows[-1].created_at, rows[-1].id)


def history(session: Session, inspection_id: str) -> list[InspectionEvent]:
    """Oldest first."""
    return list(
        session.scalars(
            select(InspectionEvent)
            .where(InspectionEvent.inspection_id == inspection_id)
            .order_by(InspectionEvent.id)
        )
    )


def finished(session: Session, ids: Sequence[str]) -> list[str]:
    """Those of the given inspections that have reached a terminal status."""
    return list(
        session.scalars(
            select(Inspection.id).where(Inspection.id.in_(ids), Inspection.status.in_(TERMINAL))
        )
    )


def make_token(at: datetime, inspection_id: str) -> str:
    """The token of the page that goes on after this row of a list of inspections."""
    return urlsafe_b64encode(f"{at.isoformat()} {inspection_id}".encode()).decode()


def read_token(token: str) -> tuple[datetime, str]:
    """What `make_token` was given. Raises InvalidInput for anything else."""
    try:
        at, id_ = urlsafe_b64decode(token.encode()).decode().split(" ")
        if not is_id(id_, "insp"):
            raise ValueError(id_)
        # In UTC: PostgreSQL knows fewer time zones than ISO 8601 can write.
        return datetime.fromisoformat(at).astimezone(UTC), id_
    except (ValueError, OverflowError) as error:
        raise not_ours() from error
