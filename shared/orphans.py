"""Objects without a row, and rows without their objects: found, and mended.

An object without a row is what a crash between storage and commit leaves; or the maps of a worker
that lost its lease. A row without its object is what a store lost. Looked at day by day, since
keys are by day: that much fits into memory.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from shared.storage.protocol import Storage
from shared.tables import TERMINAL, Inspection, InspectionEvent, Organisation, Upload

GRACE = timedelta(hours=24)
"""What is younger may belong to a submission or a batch that is still going on."""

MISSING = "pictures_missing"
"""The event of an inspection whose photo was not found."""

_NAME = re.compile(r"[a-z]+_[0-9a-z]{26}")
_IDS_A_QUERY = 1000


@dataclass(frozen=True)
class Orphans:
    """Of one organisation and one day."""

    objects: tuple[str, ...]
    """Keys that no row names."""
    inspections: tuple[str, ...]
    """Finished inspections whose photo is not there."""
    without_map: tuple[str, ...] = ()
    """Finished inspections whose photo is there, but a map of it is not: nobody needs to mend it,
    and the photo stays."""


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


def list_objects(store: Storage, organisation: str, day: date) -> dict[str, datetime]:
    """What is stored under keys of that day, and when it was changed. Raises StorageUnavailable.

    Listed before the rows are asked for: what is stored meanwhile has a row by then. And outside
    of a transaction, since many thousands take minutes to list.
    """
    return {
        entry.key: entry.changed_at
        for prefix in _prefixes(organisation, day)
        for entry in store.listed(prefix)
    }


def find(
    session: Session, objects: Mapping[str, datetime], organisation: str, day: date
) -> Orphans:
    """Orphans among the `objects` of that day and the inspections that came in on it."""
    settled = session.scalars(select(func.now())).one() - GRACE
    prefixes = _prefixes(organisation, day)
    named = _named(session, organisation, objects)
    without_row = [
        key for key, changed_at in objects.items() if key not in named and changed_at < settled
    ]
    rows = session.execute(
        select(
            Inspection.id, Inspection.image_key, Inspection.overlay_key, Inspection.anomaly_map_key
        ).where(
            Inspection.organisation_id == organisation,
            # An upload is submitted within two hours, and both clocks may differ a little.
            Inspection.created_at >= _start(day) - timedelta(minutes=10),
            Inspection.created_at < _start(day) + timedelta(hours=27),
            or_(*(Inspection.image_key.startswith(prefix) for prefix in prefixes)),
            Inspection.status.in_(TERMINAL),
            Inspection.finished_at < settled,
            Inspection.pictures_deleted_at.is_(None),
        )
    )
    without_photo, without_map = [], []
    for id_, photo, *maps in rows:
        if photo not in objects:
            without_photo.append(id_)
        elif any(key not in objects for key in maps if key):
            without_map.append(id_)
    return Orphans(tuple(sorted(without_row)), tuple(without_photo), tuple(without_map))


def _named(session: Session, organisation: str, keys: Mapping[str, datetime]) -> set[str]:
    """Those keys, and perhaps others, that a row wants to be kept.

    Rows are found by the identifier in the key, whatever time they say they are of: a clock that
    goes wrong must not make an orphan of a photo.
    """
    named: set[str] = set()
    matches = (_NAME.search(key.rsplit("/", 1)[-1]) for key in keys)
    ids = sorted({match.group() for match in matches if match})
    for start in range(0, len(ids), _IDS_A_QUERY):
        some = ids[start : start + _IDS_A_QUERY]
        uploads = session.execute(
            select(Upload.key, Upload.inspection_id).where(
                Upload.organisation_id == organisation, Upload.id.in_(some)
            )
        ).all()
        named |= {upload.key for upload in uploads if upload.inspection_id is None}
        submitted = {upload.inspection_id for upload in uploads if upload.inspection_id}
        was_missing = exists().where(
            InspectionEvent.inspection_id == Inspection.id, InspectionEvent.event == MISSING
        )
        for row in session.execute(
            select(Inspection.image_key, Inspection.overlay_key, Inspection.anomaly_map_key).where(
                Inspection.organisation_id == organisation,
                Inspection.id.in_(submitted.union(some)),
                # What was missing once and is there again is the photo of its inspection; what
                # retention has deleted and a backup has brought back is not.
                or_(Inspection.pictures_deleted_at.is_(None), was_missing),
            )
        ):
            named |= {key for key in row if key}
    return named


def _prefixes(organisation: str, day: date) -> list[str]:
    return [f"{kind}/{organisation}/{day:%Y/%m/%d}/" for kind in ("images", "maps")]


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
