"""Parts that wait for a person: the only module that changes `Review` rows."""

from collections.abc import Iterable, Sequence

from sqlalchemy import insert
from sqlalchemy.orm import Session

from shared.ids import new_id
from shared.tables import Review, ReviewStatus


def open_reviews(session: Session, held: Iterable[tuple[str, str, Sequence[str]]]) -> None:
    """Open a review for each held inspection: (organisation id, inspection id, reasons).

    Called in the transaction that holds the parts, so that none is held unseen.
    """
    rows = [
        {
            "id": new_id("rev"),
            "organisation_id": organisation,
            "inspection_id": inspection,
            "status": ReviewStatus.OPEN,
            "reasons": list(reasons),
        }
        for organisation, inspection, reasons in held
    ]
    if rows:
        session.execute(insert(Review), rows)
