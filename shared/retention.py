"""How long pictures are kept: originals and maps go, the row with the verdict stays.

Objects are deleted before the row says so. A crash in between leaves a row that is found again,
and deleting what is gone is no error. Parts that wait for a person keep their pictures, and those
that a person has decided keep them as long again: a decision may have to be looked at.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import exists, func, insert, or_, select, update
from sqlalchemy.orm import Session

from shared import audit
from shared.audit import Action
from shared.products import lock_product
from shared.tables import Inspection, InspectionEvent, Product, Review, ReviewDecision

MOST_DAYS = 36_500


@dataclass(frozen=True)
class Pictures:
    """What storage holds of one inspection."""

    inspection_id: str
    keys: tuple[str, ...]


def set_retention(
    session: Session, *, organisation_id: str, name: str, days: int | None, actor: str
) -> Product:
    """Keep pictures of this product for so many days after their verdict, and after a person's.

    None: for ever. It holds for what is there already, too. Raises NotFound.
    """
    product = lock_product(session, organisation_id=organisation_id, name=name)
    if product.retention_days != days:
        audit.note(
            session,
            organisation_id=organisation_id,
            actor=actor,
            action=Action.RETENTION_CHANGED,
            subject=name,
            before=product.retention_days,
            after=days,
        )
        product.retention_days = days
    return product


def find_expired(session: Session, *, limit: int) -> list[Pictures]:
    """Pictures that have been kept for long enough, at most those of `limit` inspections."""
    found: list[Pictures] = []
    kept_for_a_time = select(Product.id, Product.retention_days).where(
        Product.retention_days.is_not(None)
    )
    # Product by product: each is one look into the index, whatever else is in the table.
    for product_id, days in session.execute(kept_for_a_time).all():
        # Not clock_timestamp(): that changes within a query, so no index can be asked.
        past = func.now() - func.make_interval(0, 0, 0, days)
        # By the decision in force: a part may be decided anew.
        is_reviewed_still = exists(
            select(Review.id)
            .outerjoin(ReviewDecision, ReviewDecision.id == Review.decision_id)
            .where(
                Review.inspection_id == Inspection.id,
                or_(ReviewDecision.id.is_(None), ReviewDecision.at >= past),
            )
        )
        rows = session.execute(
            select(
                Inspection.id,
                Inspection.image_key,
                Inspection.overlay_key,
                Inspection.anomaly_map_key,
            )
            .where(
                Inspection.product_id == product_id,
                Inspection.finished_at < past,
                Inspection.pictures_deleted_at.is_(None),
                ~is_reviewed_still,
            )
            .order_by(Inspection.finished_at)
            .limit(limit - len(found))
        )
        found += [Pictures(row[0], tuple(key for key in row[1:] if key)) for row in rows]
        if len(found) == limit:
            break
    return found


def note_deleted(
    session: Session, inspection_ids: Sequence[str], *, actor: str, event: str = "pictures_deleted"
) -> None:
    """Storage holds nothing of these any more. Noting it twice is noting it once."""
    changed = session.scalars(
        update(Inspection)
        .where(Inspection.id.in_(inspection_ids), Inspection.pictures_deleted_at.is_(None))
        .values(pictures_deleted_at=func.now())
        .returning(Inspection.id)
        .execution_options(synchronize_session=False)
    ).all()
    _tell(session, changed, actor=actor, event=event)


def _tell(session: Session, ids: Iterable[str], *, actor: str, event: str) -> None:
    rows = [{"inspection_id": id_, "actor": actor, "event": event} for id_ in ids]
    if rows:
        session.execute(insert(InspectionEvent), rows)
