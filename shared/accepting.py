"""The one way into the table of inspections: a photo that is in storage becomes a queued row.

This is what a gateway does most, so the row and the start of its history are one statement.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import Select, bindparam, insert, literal, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import Session

from shared.ids import new_id
from shared.products import ActiveVersion
from shared.tables import Inspection, InspectionEvent, ModelVersion, Product, Status


@dataclass(frozen=True)
class Part:
    """What the plant says of the part; every field is optional."""

    serial: str | None = None
    lot: str | None = None
    line: str | None = None
    station: str | None = None
    captured_at: datetime | None = None
    annotations: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredImage:
    """An original that is already in storage."""

    key: str
    sha256: str
    bytes: int
    media_type: str
    width: int
    height: int


@dataclass(frozen=True)
class Submitted:
    """A photo whose original is in storage, to be accepted."""

    id: str
    image: StoredImage
    part: Part
    priority: int
    batch_id: str | None = None


def new_inspection_id() -> str:
    return new_id("insp")


def accept(session: Session, *, version: ActiveVersion, photo: Submitted, actor: str) -> Inspection:
    """Write a new inspection as queued; the caller commits, answers, then rings.

    `version` was read in this transaction: it judges the photo, whatever is activated later.
    Returns what was written, as a row of no session.
    """
    written = {
        "id": photo.id,
        "organisation_id": version.organisation_id,
        "serial": photo.part.serial,
        "lot": photo.part.lot,
        "line": photo.part.line,
        "station": photo.part.station,
        "captured_at": photo.part.captured_at,
        "batch_id": photo.batch_id,
        "image_key": photo.image.key,
        "image_sha256": photo.image.sha256,
        "image_bytes": photo.image.bytes,
        "media_type": photo.image.media_type,
        "width": photo.image.width,
        "height": photo.image.height,
        "status": Status.QUEUED,
        "priority": photo.priority,
        "source": f"{actor}/{photo.part.station or ''}/{photo.part.lot or ''}",
    }
    of_table = {
        **written,
        "product_id": version.product_id,
        "model_version_id": version.id,
        "metadata": photo.part.annotations,
    }
    created_at = session.execute(
        _ACCEPT, {**{f"its_{name}": value for name, value in of_table.items()}, "actor": actor}
    ).scalar_one()
    return Inspection(
        **written,
        annotations=photo.part.annotations,
        created_at=created_at,
        review_reasons=[],
        product=Product(id=version.product_id, name=version.product),
        model_version=ModelVersion(id=version.id, version=version.version, digest=version.digest),
    )


_COLUMNS = (
    *("id", "organisation_id", "product_id", "model_version_id"),
    *("serial", "lot", "line", "station", "captured_at", "batch_id", "metadata"),
    *("image_key", "image_sha256", "image_bytes", "media_type", "width", "height"),
    *("status", "priority", "source"),
)


def _statement() -> Select[tuple[datetime]]:
    inspections = cast(SqlTable, Inspection.__table__)
    events = cast(SqlTable, InspectionEvent.__table__)
    row = (
        insert(inspections)
        .values(
            {name: bindparam(f"its_{name}", type_=inspections.c[name].type) for name in _COLUMNS}
        )
        .returning(inspections.c.id, inspections.c.created_at)
        .cte("row")
    )
    event = (
        insert(events)
        .from_select(
            ["inspection_id", "actor", "event"],
            select(row.c.id, bindparam("actor"), literal("accepted")),
        )
        .cte("event")
    )
    return select(row.c.created_at).add_cte(event)


_ACCEPT = _statement()
