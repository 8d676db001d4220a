"""What is written with a verdict, told again when asked for, and forgotten when it is old."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, func, select, text, update

from shared import claiming, deliveries, delivering, endpoints, inspections
from shared.db import transaction
from shared.errors import InvalidInput
from shared.inspections import Recorded
from shared.tables import Inspection, Organisation
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from shared.webhook_tables import DeliveryStatus, Event, WebhookAttempt, WebhookDelivery

LEASE = timedelta(seconds=30)
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_a_verdict_is_announced_to_every_endpoint_in_its_own_transaction(outbox, endpoint, judge):
    first, second = endpoint(), endpoint()
    (id_,) = judge()

    told = outbox.written()
    assert {delivery.endpoint_id for delivery in told} == {first, second}
    assert {delivery.inspection_id for delivery in told} == {id_}
    assert {delivery.event for delivery in told} == {Event.INSPECTION_COMPLETED}
    assert len({delivery.id for delivery in told}) == 2


def test_a_photo_without_a_verdict_is_announced_as_failed(outbox, endpoint, judge):
    endpoint()
    judge(fails=True)

    assert [delivery.event for delivery in outbox.written()] == [Event.INSPECTION_FAILED]


def test_an_endpoint_hears_only_what_it_asked_for(outbox, endpoint, judge):
    endpoint(events=[Event.INSPECTION_FAILED])
    endpoint(products=["screw"])
    endpoint(lines=["L1"])  # these photos name no line
    endpoint(dispositions=[Disposition.REJECT, Disposition.HOLD])
    judge()
    assert outbox.written() == []

    hears = endpoint(
        events=[Event.INSPECTION_COMPLETED],
        products=["screw", "bottle"],
        dispositions=[Disposition.PASS],
    )
    judge()
    assert [delivery.endpoint_id for delivery in outbox.written()] == [hears]


def test_nobody_hears_of_another_organisation(outbox, endpoint, judge):
    with transaction() as session:
        session.add(Organisation(id="org_stranger", name="stranger"))
    endpoint(organisation_id="org_stranger")
    judge()

    assert outbox.written() == []


def test_a_worker_that_lost_its_lease_tells_nobody(outbox, endpoint, queued):
    endpoint()
    queued(5)
    with transaction() as session:
        batch = claiming.claim(session, limit=1, lease=-LEASE, worker="worker:late")
    with transaction() as session:
        inspections.sweep(session, max_attempts=3)
    outcome = Outcome(Verdict.GOOD, Disposition.PASS, (), False, False, True)
    scores = Scores(0.1, 0.001, 1.0, 10.0, ())
    result = Recorded(batch.inspections[0].id, scores, outcome, "cpu", "o", "a", [], {})
    with transaction() as session:
        inspections.record(session, token=batch.token, results=[result], worker="worker:late")

    assert outbox.written() == []


def test_the_log_of_one_endpoint_goes_piece_by_piece(db, endpoint, judge):
    gone, stays = endpoint(), endpoint()
    for _ in range(3):
        judge()

    answers = []
    for _ in range(3):
        with transaction() as session:
            answers.append(deliveries.forget_some(session, gone, limit=2))

    assert answers == [True, False, False]
    left = db.scalars(select(WebhookDelivery.endpoint_id)).all()
    assert left == [stays] * 3


@contextmanager
def held_up_at_most_a_second():
    """Whoever waits longer for a row of somebody else's is stopped: the test fails."""
    with transaction() as session:
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        yield session


def test_a_verdict_does_not_wait_for_who_settles_or_changes_its_endpoint(
    db, outbox, endpoint, judge, organisation
):
    """A replay of thousands holds its endpoint for as long as it takes."""
    id_ = endpoint()
    (inspection_id,) = judge()
    (leased,) = outbox.lease()
    (message,) = outbox.due(leased)
    settling = outbox.attempt(message.id)
    db.execute(delete(WebhookDelivery))
    db.commit()

    for hold in (
        lambda session: endpoints.lock(session, organisation_id=organisation, endpoint_id=id_),
        lambda session: delivering.settle(
            session, leased, [settling], duration=LEASE, is_all=False
        ),
        lambda session: delivering.extend(session, [leased], duration=LEASE),
    ):
        with transaction() as busy:
            assert hold(busy) is not False
            with held_up_at_most_a_second() as session:
                assert deliveries.announce(session, [inspection_id]) == 1
        with transaction() as session:
            session.execute(delete(WebhookDelivery))


def test_a_verdict_survives_that_its_endpoint_is_deleted_at_that_moment(
    db, outbox, endpoint, judge, organisation
):
    gone, stays = endpoint(), endpoint()
    (inspection_id,) = judge()
    db.execute(delete(WebhookDelivery))
    db.commit()
    told = []

    def announce():
        with transaction() as session:
            told.append(deliveries.announce(session, [inspection_id]))

    verdict = threading.Thread(target=announce)
    with transaction() as session:
        row = endpoints.lock(session, organisation_id=organisation, endpoint_id=gone)
        endpoints.delete(session, row, actor="test")
        session.flush()
        verdict.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while verdict.is_alive() and not db.scalar(text(waiting)):
            db.rollback()
    verdict.join()

    assert told == [1]
    assert [delivery.endpoint_id for delivery in outbox.written()] == [stays]


def test_a_replay_sends_known_deliveries_under_their_ids_and_makes_missing_ones(
    outbox, endpoint, judge
):
    early = judge(2)
    id_ = endpoint()
    late = judge(1)
    (leased,) = outbox.lease()
    (message,) = outbox.due(leased)
    outbox.settle(leased, outbox.attempt(message.id))

    assert outbox.replay(id_, lot="L7") == 3
    assert outbox.replay(id_, lot="L7") == 3

    told = {delivery.inspection_id: delivery for delivery in outbox.written()}
    assert set(told) == {*early, *late}
    assert told[late[0]].id == message.id
    assert {delivery.status for delivery in told.values()} == {DeliveryStatus.PENDING}
    assert {delivery.attempts for delivery in told.values()} == {0}


def test_a_replay_goes_by_time_lot_and_serial(db, outbox, endpoint, judge):
    first, second = judge(2)
    id_ = endpoint()
    with transaction() as session:
        session.execute(
            update(Inspection)
            .where(Inspection.id == first)
            .values(finished_at=Inspection.finished_at - timedelta(hours=2))
        )
    hour_ago = db.scalars(select(func.now())).one() - timedelta(hours=1)

    assert outbox.replay(id_, lot="L8") == 0
    assert outbox.replay(id_, serial="SN2", lot="L7") == 1
    assert [delivery.inspection_id for delivery in outbox.written()] == [second]
    assert outbox.replay(id_, until=hour_ago) == 1
    assert outbox.replay(id_, since=hour_ago) == 1


def test_a_replay_of_too_much_is_refused_whole(outbox, endpoint, judge, monkeypatch):
    monkeypatch.setattr(deliveries, "MOST_REPLAYED", 2)
    judge(3)
    id_ = endpoint()

    with pytest.raises(InvalidInput, match="shorter span"):
        outbox.replay(id_, lot="L7")
    assert outbox.written() == []


def test_old_deliveries_and_their_log_are_forgotten_and_what_waits_is_not(
    db, outbox, endpoint, judge
):
    endpoint()
    judge(2)
    (leased,) = outbox.lease()
    outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id))
    with transaction() as session:
        deliveries.forget_old(session, days=30)
    assert len(outbox.written()) == 2

    with transaction() as session:
        for column in (WebhookDelivery.finished_at, WebhookDelivery.created_at):
            session.execute(update(WebhookDelivery).values({column: column - timedelta(days=31)}))
        session.execute(update(WebhookAttempt).values(at=WebhookAttempt.at - timedelta(days=31)))
    with transaction() as session:
        deliveries.forget_old(session, days=30)
    assert [delivery.status for delivery in outbox.written()] == [DeliveryStatus.PENDING]
    assert db.scalar(select(func.count()).select_from(WebhookAttempt)) == 0


def test_what_is_asked_for_again_is_not_forgotten_at_that_moment(
    outbox, endpoint, judge, organisation
):
    id_ = endpoint()
    judge()
    (leased,) = outbox.lease()
    outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id))
    with transaction() as session:
        long_ago = WebhookDelivery.finished_at - timedelta(days=31)
        session.execute(update(WebhookDelivery).values(finished_at=long_ago))

    with transaction() as asking:
        endpoint_row = endpoints.lock(asking, organisation_id=organisation, endpoint_id=id_)
        assert deliveries.replay(asking, endpoint_row, lot="L7") == 1
        with held_up_at_most_a_second() as session:
            deliveries.forget_old(session, days=30)

    assert [delivery.status for delivery in outbox.written()] == [DeliveryStatus.PENDING]


def test_of_a_delivery_that_was_sent_again_and_again_the_last_attempts_are_read(
    db, outbox, endpoint, judge
):
    """Otherwise one list could hold gigabytes of replies."""
    endpoint()
    judge(2)
    often, once = (delivery.id for delivery in outbox.written())
    for delivery_id, count in ((often, deliveries.MOST_SHOWN + 5), (once, 1)):
        for number in range(count):
            db.add(attempt_row(delivery_id, number))
    db.commit()

    with transaction() as session:
        read = deliveries.attempts_of(session, [often, once])

    assert [entry.latency_ms for entry in read] == [*range(5, 25), 0]


def attempt_row(delivery_id, number):
    return WebhookAttempt(delivery_id=delivery_id, at=NOON, latency_ms=number, reply="")
