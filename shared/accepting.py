"""The one way into the table of inspections: a photo that is in storage becomes a queued row.

This is what a gateway does most, so the row and the start of its history are one statement.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Select, String, and_, bindparam, exists, insert, literal, or_, select
from sqlalchemy.orm import Session, aliased

from shared.errors import Unavailable
from shared.ids import new_id
from shared.products import check_submittable
from shared.tables import EVENTS, INSPECTIONS, Inspection, ModelVersion, Product, Status


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


def accept(
    session: Session, *, organisation_id: str, product: str | None, photo: Submitted, actor: str
) -> Inspection:
    """Write a new inspection as queued; the caller commits, answers, then rings.

    `product` may be None where there is only one. Its version that is active now judges the photo,
    whatever is activated later. Returns what was written, as a row of no session.
    Raises InvalidInput as `check_submittable` does.
    """
    written = {
        "id": photo.id,
        "organisation_id": organisation_id,
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
    values = {**written, "metadata": photo.part.annotations}
    row = session.execute(
        _ACCEPT,
        {
            **{f"its_{name}": value for name, value in values.items()},
            "product": product,
            "actor": actor,
        },
    ).one_or_none()
    if row is None:
        check_submittable(session, organisation_id=organisation_id, name=product)
        raise Unavailable("The product was changed at this moment; send the photo again.")
    return Inspection(
        **written,
        annotations=photo.part.annotations,
        created_at=row.created_at,
        review_reasons=[],
        product=Product(name=row.name),
        model_version=ModelVersion(version=row.version, digest=row.digest),
    )


_GIVEN = (
    *("id", "organisation_id", "serial", "lot", "line", "station", "captured_at", "batch_id"),
    *("metadata", "image_key", "image_sha256", "image_bytes", "media_type", "width", "height"),
    *("status", "priority", "source"),
)


def _statement() -> Select[Any]:
    its = {name: bindparam(f"its_{name}", type_=INSPECTIONS.c[name].type) for name in _GIVEN}
    named, another = bindparam("product", type_=String()), aliased(Product)
    is_the_only_one = ~exists().where(
        another.organisation_id == Product.organisation_id, another.id != Product.id
    )
    judge = (
        select(
            Product.id.label("product_id"),
            Product.name,
            ModelVersion.id.label("model_version_id"),
            ModelVersion.version,
            ModelVersion.digest,
        )
        .join(ModelVersion, ModelVersion.id == Product.active_version_id)
        .where(
            Product.organisation_id == its["organisation_id"],
            or_(Product.name == named, and_(named.is_(None), is_the_only_one)),
        )
        .cte("judge")
    )
    row = (
        insert(INSPECTIONS)
        .from_select(
            [*_GIVEN, "product_id", "model_version_id"],
            select(*its.values(), judge.c.product_id, judge.c.model_version_id),
        )
        .returning(INSPECTIONS.c.id, INSPECTIONS.c.created_at, INSPECTIONS.c.model_version_id)
        .cte("row")
    )
    event = (
        insert(EVENTS)
        .from_select(
            ["inspection_id", "actor", "event"],
            select(row.c.id, bindparam("actor"), literal("accepted")),
        )
        .cte("event")
    )
    return (
        select(row.c.created_at, judge.c.name, judge.c.version, judge.c.digest)
        .where(row.c.model_version_id == judge.c.model_version_id)
        .add_cte(event)
    )


_ACCEPT = _statement()
