"""Objects without a row, and rows without their objects: found, and mended.

An object without a row is what a crash between storage and commit leaves; or the maps of a worker
that lost its lease. A row without its object is what a store lost. Looked at day by day, since
keys are by day: that much fits into memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from shared.storage import Storage
from shared.tables import TERMINAL, Inspection, Organisation, Upload

GRACE = timedelta(hours=24)
"""What is younger may belong to a submission or a batch that is still going on."""


@dataclass(frozen=True)
class Orphans:
    """Of one organisation and one day."""

    objects: tuple[str, ...]
    """Keys that no row names."""
    inspections: tuple[str, ...]
    """Finished inspections that name an object which is not there."""


def days(session: Session) -> Iterator[tuple[str, date]]:
    """Every organisation and day that can have objects, oldest first."""
    today = datetime.now(UTC).date()
    for organisation, created_at in session.execute(
        select(Organisation.id, Organisation.created_at).order_by(Organisation.id)
    ).all():
        day = created_at.astimezone(UTC).date()
        while day <= today:
            yield organisation, day
            day += timedelta(days=1)


def find(session: Session, store: Storage, organisation: str, day: date) -> Orphans:
    """Orphans among what has the key of that day. Raises StorageUnavailable."""
    settled = session.scalars(select(func.now())).one() - GRACE
    prefixes = [f"{kind}/{organisation}/{day:%Y/%m/%d}/" for kind in ("images", "maps")]
    # Objects first: one that is stored meanwhile has a row by the time that rows are asked for.
    objects = {entry.key: entry.changed_at for prefix in prefixes for entry in store.listed(prefix)}
    rows = session.execute(
        select(
            Inspection.id,
            Inspection.status,
            Inspection.finished_at,
            Inspection.pictures_deleted_at,
            Inspection.image_key,
            Inspection.overlay_key,
            Inspection.anomaly_map_key,
        ).where(
            Inspection.organisation_id == organisation,
            # An upload is submitted within two hours, and both clocks may differ a little.
            Inspection.created_at >= _start(day) - timedelta(minutes=10),
            Inspection.created_at < _start(day) + timedelta(hours=27),
            or_(*(Inspection.image_key.startswith(prefix) for prefix in prefixes)),
        )
    ).all()
    named = {key for row in rows for key in row[4:] if key and row.pictures_deleted_at is None}
    named |= set(
        session.scalars(
            select(Upload.key).where(
                Upload.organisation_id == organisation,
                Upload.inspection_id.is_(None),
                Upload.key.startswith(prefixes[0]),
            )
        )
    )
    without_row = [
        key for key, changed_at in objects.items() if key not in named and changed_at < settled
    ]
    incomplete = [
        row.id
        for row in rows
        if row.status in TERMINAL
        and row.finished_at < settled
        and row.pictures_deleted_at is None
        and any(key not in objects for key in row[4:] if key)
    ]
    return Orphans(tuple(sorted(without_row)), tuple(incomplete))


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
