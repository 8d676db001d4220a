"""Batches: photos that were submitted together and are asked for together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from shared.errors import NotFound
from shared.ids import is_id
from shared.tables import TERMINAL, Inspection, SubmissionBatch


@dataclass(frozen=True)
class Summary:
    """How far the photos of a batch are."""

    total: int
    by_status: dict[str, int]
    by_verdict: dict[str, int]
    by_disposition: dict[str, int]

    @property
    def is_finished(self) -> bool:
        return sum(self.by_status.get(status.value, 0) for status in TERMINAL) == self.total


def create(session: Session, *, batch_id: str, organisation_id: str) -> None:
    """Make the batch, if it is not there already."""
    session.execute(
        insert(SubmissionBatch)
        .values(id=batch_id, organisation_id=organisation_id)
        .on_conflict_do_nothing()
    )


def get(session: Session, *, organisation_id: str, batch_id: str) -> SubmissionBatch:
    """Raises NotFound, also for what belongs to another organisation."""
    if not is_id(batch_id, "batch"):
        raise NotFound("There is no such batch.")
    batch = session.scalar(
        select(SubmissionBatch).where(
            SubmissionBatch.id == batch_id, SubmissionBatch.organisation_id == organisation_id
        )
    )
    if batch is None:
        raise NotFound(f"There is no batch {batch_id}.")
    return batch


def summarise(session: Session, batch_id: str) -> Summary:
    rows = session.execute(
        select(Inspection.status, Inspection.verdict, Inspection.disposition, func.count())
        .where(Inspection.batch_id == batch_id)
        .group_by(Inspection.status, Inspection.verdict, Inspection.disposition)
    ).all()
    return Summary(
        total=sum(row[3] for row in rows),
        by_status=_counted(rows, 0),
        by_verdict=_counted(rows, 1),
        by_disposition=_counted(rows, 2),
    )


def _counted(rows: Sequence[Any], column: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for row in rows:
        if row[column] is not None:
            counts[row[column].value] += row[3]
    return dict(counts)
