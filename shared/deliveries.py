"""What webhook endpoints are to be told: written with the verdict, and again on request.

How it is sent is in delivering.py.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    String,
    any_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    false,
    func,
    insert,
    lateral,
    literal,
    null,
    or_,
    select,
    text,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from shared.errors import InvalidInput, NotFound
from shared.ids import new_id
from shared.tables import Inspection, Product, Review, ReviewDecision, Status
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

MOST_REPLAYED = 20_000
"""At once: they are written in one transaction."""
MOST_SHOWN = 20
"""Attempts of one delivery, each with 2 KB of the reply: all of two times through the retries."""
EVENT_OF = {
    Status.SUCCEEDED: Event.INSPECTION_COMPLETED,
    Status.FAILED: Event.INSPECTION_FAILED,
}


def announce(session: Session, inspection_ids: Sequence[str]) -> int:
    """Write a delivery for each endpoint that wants to hear of these; returns how many.

    Called in the transaction that ends the inspections, so that no verdict stays untold.
    """
    return _write(session, _ENDED, {"ids": inspection_ids})


def announce_decision(session: Session, decision_id: str) -> int:
    """The same of what a person decided, in the transaction of the decision."""
    return _write(session, _DECIDED, {"decision_id": decision_id})


def announce_test(session: Session, endpoint: WebhookEndpoint) -> WebhookDelivery:
    """A delivery of `webhook.test`, whatever the endpoint is subscribed to."""
    row = WebhookDelivery(
        id=new_id("msg"),
        organisation_id=endpoint.organisation_id,
        endpoint_id=endpoint.id,
        event=Event.TEST,
        status=DeliveryStatus.PENDING,
    )
    session.add(row)
    _end_rest(session, endpoint.id)
    session.flush()
    session.refresh(row)
    return row


def replay(
    session: Session,
    endpoint: WebhookEndpoint,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    lot: str | None = None,
    serial: str | None = None,
) -> int:
    """Send once more what the endpoint should have heard of; returns how many deliveries.

    Also of inspections that ended before it existed, or while it was disabled. What was sent before
    keeps its id, so that a receiver knows it. `since` and `until` bound the end of the inspection,
    or the moment of the decision. Raises InvalidInput for more than `MOST_REPLAYED`.
    """
    rows: list[Row[str, str, str, str, str | None]] = []
    for query, at in ((_ended(), Inspection.finished_at), (_decided(), ReviewDecision.at)):
        wanted = query.where(WebhookEndpoint.id == endpoint.id)
        if since is not None:
            wanted = wanted.where(at >= since)
        if until is not None:
            wanted = wanted.where(at < until)
        if lot is not None:
            wanted = wanted.where(Inspection.lot == lot)
        if serial is not None:
            wanted = wanted.where(Inspection.serial == serial)
        rows += session.execute(wanted.limit(MOST_REPLAYED + 1)).all()
    if len(rows) > MOST_REPLAYED:
        raise InvalidInput(
            f"These are more than {MOST_REPLAYED:,} events; replay a shorter span, one after "
            "the other.",
            code="too_many_to_replay",
        )
    for start in range(0, len(rows), 1000):
        statement = upsert(WebhookDelivery)
        session.execute(
            statement.on_conflict_do_update(
                index_elements=[
                    "endpoint_id",
                    "inspection_id",
                    "event",
                    text("coalesce(decision_id, '')"),
                ],
                set_=_AGAIN,
            ),
            [_new(row) for row in rows[start : start + 1000]],
        )
    _end_rest(session, endpoint.id)
    return len(rows)


def redeliver(session: Session, *, organisation_id: str, delivery_id: str) -> WebhookDelivery:
    """Send this one again, from the first attempt on. Raises NotFound."""
    row = get(session, organisation_id=organisation_id, delivery_id=delivery_id)
    # The endpoint first, as everybody who changes both.
    _end_rest(session, row.endpoint_id)
    session.execute(
        update(WebhookDelivery).where(WebhookDelivery.id == delivery_id).values(**_AGAIN)
    )
    session.refresh(row)
    return row


def get(session: Session, *, organisation_id: str, delivery_id: str) -> WebhookDelivery:
    """Raises NotFound, also for what belongs to another organisation."""
    row = session.scalar(
        select(WebhookDelivery).where(
            WebhookDelivery.id == delivery_id, WebhookDelivery.organisation_id == organisation_id
        )
    )
    if row is None:
        raise NotFound(f"There is no delivery {delivery_id}.")
    return row


def of_inspection(session: Session, inspection_id: str) -> list[WebhookDelivery]:
    """What was told of it, oldest first."""
    return list(
        session.scalars(
            select(WebhookDelivery)
            .where(WebhookDelivery.inspection_id == inspection_id)
            .order_by(WebhookDelivery.id)
        )
    )


def attempts_of(session: Session, delivery_ids: Sequence[str]) -> list[WebhookAttempt]:
    """The last `MOST_SHOWN` of each, oldest first."""
    # One look into the index for each: a delivery can be sent again a hundred thousand times.
    last = lateral(
        select(WebhookAttempt.id)
        .where(WebhookAttempt.delivery_id == WebhookDelivery.id)
        .order_by(WebhookAttempt.id.desc())
        .limit(MOST_SHOWN)
    )
    ids = select(last.c.id).select_from(WebhookDelivery).join(last, true())
    return list(
        session.scalars(
            select(WebhookAttempt)
            .where(WebhookAttempt.id.in_(ids.where(WebhookDelivery.id.in_(delivery_ids))))
            .order_by(WebhookAttempt.id)
        )
    )


def page(
    session: Session,
    endpoint: WebhookEndpoint,
    *,
    status: DeliveryStatus | None,
    page_size: int,
    page_token: str,
) -> tuple[list[WebhookDelivery], str]:
    """Newest first, and the token of the next page: empty on the last."""
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint.id)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    if page_token:
        query = query.where(WebhookDelivery.id < page_token)
    rows = list(session.scalars(query.order_by(WebhookDelivery.id.desc()).limit(page_size + 1)))
    if len(rows) <= page_size:
        return rows, ""
    return rows[:page_size], rows[page_size - 1].id


def forget_old(session: Session, *, days: int, limit: int = 1000) -> bool:
    """The log, and what is finished, are kept for so many days. Deletes at most `limit` of each;
    True if there may be more.

    Of a part that waits for a person the deliveries stay: who was told of it hears of the decision.
    """
    oldest = func.now() - func.make_interval(0, 0, 0, days)
    attempts = select(WebhookAttempt.id).where(WebhookAttempt.at < oldest)
    finished = select(WebhookDelivery.id).where(
        WebhookDelivery.finished_at < oldest,
        WebhookDelivery.status != DeliveryStatus.PENDING,
        ~exists().where(
            Review.inspection_id == WebhookDelivery.inspection_id, Review.decided_at.is_(None)
        ),
    )
    counts = [
        len(
            session.scalars(
                delete(table)
                # Skipped: what is being asked for again, or else it would be deleted after that.
                .where(table.id.in_(old.limit(limit).with_for_update(skip_locked=True)))
                .returning(table.id)
                .execution_options(synchronize_session=False)
            ).all()
        )
        for table, old in ((WebhookAttempt, attempts), (WebhookDelivery, finished))
    ]
    return limit in counts


def forget_some(session: Session, endpoint_id: str, *, limit: int = 1000) -> bool:
    """Delete at most `limit` deliveries of an endpoint, with their attempts; True if there may be
    more.
    """
    some = select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == endpoint_id)
    gone = session.scalars(
        delete(WebhookDelivery)
        .where(WebhookDelivery.id.in_(some.limit(limit)))
        .returning(WebhookDelivery.id)
        .execution_options(synchronize_session=False)
    ).all()
    return len(gone) == limit


def _end_rest(session: Session, endpoint_id: str) -> None:
    """Whoever asks for something now has mended their receiver, or wants to see."""
    session.execute(
        update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).values(rests_until=None)
    )


_AGAIN = {
    "status": DeliveryStatus.PENDING,
    "attempts": 0,
    "run_at": func.now(),
    "finished_at": None,
}


def _ended() -> Select[str, str, str, str, str | None]:
    """Which endpoint hears of which ended inspection, by its subscription and filter."""
    event = case(
        {status.value: event.value for status, event in EVENT_OF.items()},
        value=cast(Inspection.status, String),
    )
    return _heard(event, null(), Inspection.status.in_(EVENT_OF), false())


def _decided() -> Select[str, str, str, str, str | None]:
    """Which endpoint hears of which decision: its filter sees the part as it is since.

    Who was told of the part hears of it whatever its disposition is by now: a MES that wants to
    know of parts on hold has to learn that one of them may go.
    """
    return (
        _heard(literal(Event.REVIEW_DECIDED.value), ReviewDecision.id, true(), _was_told())
        .join(Review, Review.inspection_id == Inspection.id)
        .join(ReviewDecision, ReviewDecision.review_id == Review.id)
    )


def _was_told() -> ColumnElement[bool]:
    return (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.endpoint_id == WebhookEndpoint.id,
            WebhookDelivery.inspection_id == Inspection.id,
        )
        .correlate(WebhookEndpoint, Inspection)
        .exists()
    )


def _heard(
    event: ColumnElement[str],
    decision_id: Any,
    happened: ColumnElement[bool],
    whatever_disposition: ColumnElement[bool],
) -> Select[str, str, str, str, str | None]:
    filters = (
        (WebhookEndpoint.products, Product.name),
        (WebhookEndpoint.lines, Inspection.line),
        (WebhookEndpoint.stations, Inspection.station),
    )
    disposition = cast(Inspection.disposition, String)
    return (
        select(
            WebhookEndpoint.organisation_id,
            WebhookEndpoint.id,
            Inspection.id,
            event.label("event"),
            type_coerce(decision_id, String).label("decision_id"),
        )
        .select_from(WebhookEndpoint)
        .join(Inspection, Inspection.organisation_id == WebhookEndpoint.organisation_id)
        .join(Product, Product.id == Inspection.product_id)
        .where(
            happened,
            any_(WebhookEndpoint.events) == event,
            *(or_(func.cardinality(named) == 0, any_(named) == value) for named, value in filters),
            or_(
                func.cardinality(WebhookEndpoint.dispositions) == 0,
                any_(WebhookEndpoint.dispositions) == disposition,
                whatever_disposition,
            ),
        )
    )


def _to_be_told(
    wanted: Select[str, str, str, str, str | None],
) -> Select[str, str, str, str, str | None]:
    # FOR KEY SHARE: an endpoint that is being deleted is waited for and left out, or else the row
    # that names it would fail, and the verdict with it.
    return wanted.where(WebhookEndpoint.status != EndpointStatus.DISABLED).with_for_update(
        read=True, key_share=True, of=WebhookEndpoint
    )


# Put together once: that takes SQLAlchemy longer than sending it.
_ENDED = _to_be_told(_ended().where(Inspection.id.in_(bindparam("ids", expanding=True))))
_DECIDED = _to_be_told(_decided().where(ReviewDecision.id == bindparam("decision_id")))


def _write(
    session: Session, wanted: Select[str, str, str, str, str | None], values: dict[str, Any]
) -> int:
    rows = session.execute(wanted, values).all()
    if rows:
        session.execute(insert(WebhookDelivery), [_new(row) for row in rows])
    return len(rows)


def _new(wanted: Sequence[Any]) -> dict[str, object]:
    organisation_id, endpoint_id, inspection_id, event, decision_id = wanted
    return {
        "id": new_id("msg"),
        "organisation_id": organisation_id,
        "endpoint_id": endpoint_id,
        "inspection_id": inspection_id,
        "decision_id": decision_id,
        "event": Event(event),
        "status": DeliveryStatus.PENDING,
    }
