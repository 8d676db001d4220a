"""What is written with a verdict, and what becomes of it: retries, rests, giving up, replay."""

import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, event, func, select, text, update

from shared import deliveries, delivering, endpoints, inspections
from shared.db import engine, transaction
from shared.delivering import PAUSE_AFTER, RETRY_AFTER, Attempt
from shared.endpoints import SUBSCRIBABLE, Filter
from shared.errors import InvalidInput
from shared.inspections import Failure, Recorded
from shared.tables import AuditEntry, Inspection, Organisation
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    Event,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

LEASE = timedelta(seconds=30)
NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture
def endpoint(organisation):
    def make(*, events=SUBSCRIBABLE, organisation_id=organisation, **filter_):
        with transaction() as session:
            return endpoints.create(
                session,
                organisation_id=organisation_id,
                url="https://mes.example/hook",
                events=events,
                filter_=Filter(**filter_),
                description="",
                actor="test",
            ).id

    return make


@pytest.fixture
def judge(queued):
    """Photos through the queue to a verdict, or to none; their ids."""

    def judge(count=1, *, disposition=Disposition.PASS, fails=False):
        queued(*[5] * count)
        with transaction() as session:
            batch = inspections.claim(session, limit=100, lease=LEASE, worker="worker:a")
            ids = [one.id for one in batch.inspections]
            if fails:
                failures = [Failure(id_, "unreadable_image", "Send it again.") for id_ in ids]
                inspections.fail(session, token=batch.token, failures=failures, worker="worker:a")
                return ids
            outcome = Outcome(Verdict.GOOD, disposition, (), False, False, True)
            results = [
                Recorded(id_, Scores(0.1, 0.001, 1.0, 10.0, ()), outcome, "cpu", "o", "a", [], {})
                for id_ in ids
            ]
            inspections.record(session, token=batch.token, results=results, worker="worker:a")
        return ids

    return judge


def written(db):
    db.expire_all()
    return list(db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def row(db, id_, table=WebhookEndpoint):
    db.expire_all()
    return db.get_one(table, id_)


def lease():
    with transaction() as session:
        return delivering.lease(session, limit=10, duration=LEASE)


def due(leased):
    with transaction() as session:
        batch = delivering.due(session, leased, limit=100)
        return batch.messages if batch else []


def secrets_of(leased):
    with transaction() as session:
        return delivering.due(session, leased, limit=1).secrets


def settle(leased, *attempts, is_all=False):
    with transaction() as session:
        return delivering.settle(session, leased, attempts, duration=LEASE, is_all=is_all)


def attempt(db, delivery_id, status_code=200, **more):
    at = db.scalars(select(func.clock_timestamp())).one()
    run_at = db.scalar(select(WebhookDelivery.run_at).where(WebhookDelivery.id == delivery_id))
    return Attempt(delivery_id, run_at, at, latency_ms=3, status_code=status_code, **more)


def let_time_pass(duration):
    """All that lies in the future comes nearer."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(run_at=WebhookDelivery.run_at - duration))
        session.execute(
            update(WebhookEndpoint).values(
                rests_until=WebhookEndpoint.rests_until - duration,
                lease_until=WebhookEndpoint.lease_until - duration,
                failing_since=WebhookEndpoint.failing_since - duration,
            )
        )


def test_a_verdict_is_announced_to_every_endpoint_in_its_own_transaction(db, endpoint, judge):
    first, second = endpoint(), endpoint()
    (id_,) = judge()

    told = written(db)
    assert {delivery.endpoint_id for delivery in told} == {first, second}
    assert {delivery.inspection_id for delivery in told} == {id_}
    assert {delivery.event for delivery in told} == {Event.INSPECTION_COMPLETED}
    assert len({delivery.id for delivery in told}) == 2


def test_a_photo_without_a_verdict_is_announced_as_failed(db, endpoint, judge):
    endpoint()
    judge(fails=True)

    assert [delivery.event for delivery in written(db)] == [Event.INSPECTION_FAILED]


def test_an_endpoint_hears_only_what_it_asked_for(db, endpoint, judge):
    endpoint(events=[Event.INSPECTION_FAILED])
    endpoint(products=["screw"])
    endpoint(lines=["L1"])  # these photos name no line
    endpoint(dispositions=[Disposition.REJECT, Disposition.HOLD])
    judge()
    assert written(db) == []

    hears = endpoint(
        events=[Event.INSPECTION_COMPLETED],
        products=["screw", "bottle"],
        dispositions=[Disposition.PASS],
    )
    judge()
    assert [delivery.endpoint_id for delivery in written(db)] == [hears]


def test_nobody_hears_of_another_organisation(db, endpoint, judge):
    with transaction() as session:
        session.add(Organisation(id="org_stranger", name="stranger"))
    endpoint(organisation_id="org_stranger")
    judge()

    assert written(db) == []


def test_a_worker_that_lost_its_lease_tells_nobody(db, endpoint, queued):
    endpoint()
    queued(5)
    with transaction() as session:
        batch = inspections.claim(session, limit=1, lease=-LEASE, worker="worker:late")
    with transaction() as session:
        inspections.sweep(session, max_attempts=3)
    outcome = Outcome(Verdict.GOOD, Disposition.PASS, (), False, False, True)
    scores = Scores(0.1, 0.001, 1.0, 10.0, ())
    result = Recorded(batch.inspections[0].id, scores, outcome, "cpu", "o", "a", [], {})
    with transaction() as session:
        inspections.record(session, token=batch.token, results=[result], worker="worker:late")

    assert written(db) == []


def test_what_arrived_is_not_due_again(db, endpoint, judge):
    endpoint()
    judge(2)
    (leased,) = lease()
    first, second = due(leased)

    assert settle(leased, attempt(db, first.id), attempt(db, second.id, 204))

    assert {delivery.status for delivery in written(db)} == {DeliveryStatus.DELIVERED}
    assert due(leased) == []


def test_a_mixed_batch_is_recorded_one_by_one_in_the_log(db, endpoint, judge):
    id_ = endpoint()
    judge(4)
    (leased,) = lease()
    gone, *others = due(leased)
    with transaction() as session:
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.id == gone.id))
    codes = dict(zip([other.id for other in others], (200, 500, 204), strict=True))
    tried = [attempt(db, message, code) for message, code in codes.items()]

    # In another order than they were made in, with one that was deleted meanwhile.
    assert settle(leased, tried[2], attempt(db, gone.id), tried[0], tried[1])

    log = db.scalars(select(WebhookAttempt).order_by(WebhookAttempt.id)).all()
    assert [(entry.delivery_id, entry.status_code) for entry in log] == list(codes.items())
    assert [delivery.attempts for delivery in written(db)] == [1, 1, 1]
    assert {delivery.id for delivery in written(db) if delivery.finished_at} == {
        message for message, code in codes.items() if code != 500
    }
    # The last of them arrived.
    assert row(db, id_).failures == 0


def test_settling_many_asks_the_database_as_often_as_settling_one(db, endpoint, judge):
    endpoint()
    judge(31)
    (leased,) = lease()
    first, *rest = [attempt(db, message.id) for message in due(leased)]
    asked = []

    def count(_connection, _cursor, statement, *_):
        asked.append(statement)

    event.listen(engine(), "before_cursor_execute", count)
    try:
        settle(leased, first)
        of_one = len(asked)
        settle(leased, *rest)
    finally:
        event.remove(engine(), "before_cursor_execute", count)

    assert len(asked) == 2 * of_one
    assert {delivery.status for delivery in written(db)} == {DeliveryStatus.DELIVERED}


def test_an_endpoint_is_delivered_to_by_one_deliverer_until_its_lease_ends(db, endpoint, judge):
    endpoint()
    judge()
    (leased,) = lease()
    (message,) = due(leased)
    assert lease() == []

    let_time_pass(LEASE * 2)
    (taken_over,) = lease()

    # The late one gets and records nothing: it is sent again by the other.
    assert due(leased) == []
    assert not settle(leased, attempt(db, message.id))
    assert [delivery.status for delivery in written(db)] == [DeliveryStatus.PENDING]
    assert settle(taken_over, attempt(db, due(taken_over)[0].id))


def test_a_heartbeat_keeps_a_lease_and_brings_no_lost_one_back(endpoint, judge):
    endpoint()
    judge()
    (leased,) = lease()
    let_time_pass(LEASE / 2)
    with transaction() as session:
        delivering.extend(session, [leased], duration=LEASE)
    let_time_pass(LEASE / 2)
    assert lease() == []

    let_time_pass(LEASE)
    (other,) = lease()
    with transaction() as session:
        delivering.extend(session, [leased], duration=LEASE * 10)
    let_time_pass(LEASE * 2)
    assert [one.id for one in lease()] == [other.id]


@contextmanager
def held_up_at_most_a_second():
    """Whoever waits longer for a row of somebody else's is stopped: the test fails."""
    with transaction() as session:
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        yield session


def test_a_verdict_does_not_wait_for_who_settles_or_changes_its_endpoint(
    db, endpoint, judge, organisation
):
    """A replay of thousands holds its endpoint for as long as it takes."""
    id_ = endpoint()
    (inspection_id,) = judge()
    (leased,) = lease()
    (message,) = due(leased)
    settling = attempt(db, message.id)
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


def test_an_endpoint_is_leased_while_more_verdicts_for_it_are_written(db, endpoint, judge):
    endpoint()
    judge()
    (later,) = judge()
    db.execute(delete(WebhookDelivery).where(WebhookDelivery.inspection_id == later))
    db.commit()

    with transaction() as writing:
        deliveries.announce(writing, [later])
        assert len(lease()) == 1


def test_a_verdict_survives_that_its_endpoint_is_deleted_at_that_moment(
    db, endpoint, judge, organisation
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
    assert [delivery.endpoint_id for delivery in written(db)] == [stays]


def test_endpoints_that_work_are_leased_before_those_that_fail(db, endpoint, judge):
    failing, works, fails_too = endpoint(), endpoint(), endpoint()
    judge()
    for id_ in (failing, fails_too):
        db.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == id_).values(failures=1))
    db.commit()

    with transaction() as session:
        (first,) = delivering.lease(session, limit=1, duration=LEASE)
    assert first.id == works


def test_of_what_waits_for_a_failing_endpoint_only_what_is_sent_is_read(db, endpoint, judge):
    """Else ten dead ones have the deliverer read 400 inspections to send twenty."""
    endpoint()
    judge(5)
    (leased,) = lease()
    messages = due(leased)
    assert len(messages) == 5
    settle(leased, attempt(db, messages[0].id, 500))
    assert len(due(leased)) == 2

    settle(leased, attempt(db, messages[1].id))
    assert len(due(leased)) == 3


def test_a_busy_endpoint_gets_what_was_changed_with_the_next_batch(
    db, endpoint, judge, organisation
):
    """Its lease can last for hours: nothing that it was leased with may be kept so long."""
    id_ = endpoint()
    judge()
    (leased,) = lease()
    old = row(db, id_).secret
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.rotate(session, endpoint_row, actor="test")
        endpoint_row.url = "https://mes.example/moved"
    with transaction() as session:
        batch = delivering.due(session, leased, limit=1)
    assert batch.url == "https://mes.example/moved"
    assert batch.secrets == (row(db, id_).secret, old)

    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.pause(session, endpoint_row, actor="test")
    assert due(leased) == []


@pytest.mark.parametrize("status_code", [200, 500])
def test_what_is_asked_for_again_while_it_is_being_sent_is_sent_again(
    db, endpoint, judge, organisation, status_code
):
    """It may have been asked for because what was sent a moment before got lost over there."""
    id_ = endpoint()
    judge(2)
    (leased,) = lease()
    messages = due(leased)
    sent = [attempt(db, message.id, status_code) for message in messages]
    assert replay(organisation, id_, serial="SN1") == 1
    settle(leased, *sent)

    again, other = sorted(written(db), key=lambda delivery: delivery.run_at, reverse=True)
    if status_code == 500:
        again, other = other, again
    assert again.status is DeliveryStatus.PENDING
    assert again.attempts == 0
    assert other.attempts == 1
    assert again.id in [message.id for message in due(leased)]
    # The log has what was sent, all the same.
    log = db.scalars(select(WebhookAttempt.delivery_id)).all()
    assert sorted(log) == sorted(message.id for message in messages)


def test_an_endpoint_to_which_all_was_sent_is_given_back_with_the_record_of_it(db, endpoint, judge):
    endpoint()
    judge(2)
    (leased,) = lease()
    with transaction() as session:
        assert not delivering.due(session, leased, limit=2).is_all
        batch = delivering.due(session, leased, limit=3)
    assert batch.is_all
    first, second = batch.messages
    assert settle(leased, attempt(db, first.id))
    assert lease() == []

    assert not settle(leased, attempt(db, second.id), is_all=True)
    judge()
    assert len(lease()) == 1


def test_a_released_endpoint_is_free_at_once(endpoint, judge):
    endpoint()
    judge()
    (leased,) = lease()
    with transaction() as session:
        delivering.release(session, leased)

    assert len(lease()) == 1


def test_a_failure_is_tried_again_by_the_schedule_until_the_delivery_is_dead(db, endpoint, judge):
    endpoint()
    judge()
    total = timedelta(0)
    for number, wait in enumerate(RETRY_AFTER, start=1):
        (leased,) = lease()
        (message,) = due(leased)
        settle(leased, attempt(db, message.id, 500))
        (delivery,) = written(db)
        now = db.scalars(select(func.now())).one()
        assert delivery.attempts == number
        assert wait * 0.89 <= delivery.run_at - now <= wait * 1.11
        with transaction() as session:
            delivering.release(session, leased)
        assert lease() == []
        let_time_pass(wait * 1.2)
        total += wait
        # Or the endpoint would be paused on the way.
        with transaction() as session:
            session.execute(update(WebhookEndpoint).values(failing_since=None))
    assert timedelta(days=2.9) < total < timedelta(days=3.1)

    (leased,) = lease()
    settle(leased, attempt(db, due(leased)[0].id, error="timed out"))
    (delivery,) = written(db)
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DEAD, len(RETRY_AFTER) + 1)
    assert db.scalar(select(func.count()).select_from(WebhookAttempt)) == len(RETRY_AFTER) + 1


def test_retry_after_is_honoured_by_the_delivery_and_the_endpoint(db, endpoint, judge):
    id_ = endpoint()
    judge(2)
    (leased,) = lease()
    message = due(leased)[0]

    assert not settle(leased, attempt(db, message.id, 429, retry_after=timedelta(minutes=10)))

    now = db.scalars(select(func.now())).one()
    assert row(db, message.id, WebhookDelivery).run_at >= now + timedelta(minutes=9, seconds=59)
    assert row(db, id_).rests_until >= now + timedelta(minutes=9, seconds=59)


def test_retry_after_holds_although_the_post_beside_it_arrived(db, endpoint, judge):
    id_ = endpoint()
    judge(2)
    (leased,) = lease()
    busy, fine = due(leased)
    asks = attempt(db, busy.id, 429, retry_after=timedelta(minutes=10))

    assert not settle(leased, asks, attempt(db, fine.id))

    now = db.scalars(select(func.now())).one()
    assert row(db, id_).rests_until >= now + timedelta(minutes=9, seconds=59)
    assert row(db, id_).failures == 0


@pytest.mark.parametrize("ask", ["replay", "redeliver", "test"])
def test_whoever_asks_for_a_delivery_now_does_not_wait_for_the_rest_to_end(
    db, endpoint, judge, organisation, ask
):
    id_ = endpoint()
    judge()
    (leased,) = lease()
    (message,) = due(leased)
    settle(leased, attempt(db, message.id, 503, retry_after=timedelta(hours=5)))
    with transaction() as session:
        delivering.release(session, leased)
    let_time_pass(timedelta(seconds=30))
    assert lease() == []

    if ask == "replay":
        replay(organisation, id_, lot="L7")
    else:
        with transaction() as session:
            endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
            if ask == "test":
                deliveries.announce_test(session, endpoint_row)
            else:
                deliveries.redeliver(session, organisation_id=organisation, delivery_id=message.id)
    (leased,) = lease()
    assert len(due(leased)) == 1


def test_an_endpoint_that_fails_again_and_again_rests_and_what_waits_loses_no_attempt(
    db, endpoint, judge
):
    endpoint()
    judge(5)
    (leased,) = lease()
    messages = due(leased)
    assert settle(leased, attempt(db, messages[0].id, 500), attempt(db, messages[1].id, 500))
    assert not settle(leased, attempt(db, messages[2].id, 500))

    with transaction() as session:
        delivering.release(session, leased)
    assert lease() == []
    assert [delivery.attempts for delivery in written(db)] == [1, 1, 1, 0, 0]

    let_time_pass(timedelta(seconds=6))
    (leased,) = lease()
    assert settle(leased, attempt(db, messages[3].id))
    assert row(db, leased.id).failures == 0


def test_410_disables_the_endpoint_and_ends_what_waits_for_it(db, endpoint, judge):
    id_ = endpoint()
    judge(3)
    (leased,) = lease()
    assert not settle(leased, attempt(db, due(leased)[0].id, 410))

    assert row(db, id_).status is EndpointStatus.DISABLED
    assert "410" in row(db, id_).status_reason
    assert {delivery.status for delivery in written(db)} == {DeliveryStatus.DEAD}
    judge()
    assert len(written(db)) == 3
    entry = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.subject, entry.actor) == ("webhook.disabled", id_, "deliverer")


def test_410_disables_also_what_was_paused_while_it_was_said(db, endpoint, judge, organisation):
    """Else it would be resumed, and what waited would be dead without a reason in sight."""
    id_ = endpoint()
    judge()
    (leased,) = lease()
    (message,) = due(leased)
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.pause(session, endpoint_row, actor="test")
    settle(leased, attempt(db, message.id, 410))

    assert row(db, id_).status is EndpointStatus.DISABLED
    assert "410" in row(db, id_).status_reason


def test_after_three_days_of_nothing_but_failures_it_is_paused_and_nothing_is_lost(
    db, endpoint, judge
):
    id_ = endpoint()
    judge(2)
    (leased,) = lease()
    settle(leased, attempt(db, due(leased)[0].id, error="refused"))
    let_time_pass(PAUSE_AFTER)
    (leased,) = lease()
    settle(leased, attempt(db, due(leased)[0].id, error="refused"))

    assert row(db, id_).status is EndpointStatus.PAUSED
    assert "refused" in row(db, id_).status_reason
    entry = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.subject, entry.actor) == ("webhook.paused", id_, "deliverer")
    assert entry.detail == {"reason": row(db, id_).status_reason}
    let_time_pass(timedelta(hours=1))
    assert lease() == []

    with transaction() as session:
        endpoint_row = endpoints.lock(
            session, organisation_id=row(db, id_).organisation_id, endpoint_id=id_
        )
        endpoints.resume(session, endpoint_row, actor="test")
    (leased,) = lease()
    assert len(due(leased)) == 2


def test_both_secrets_sign_for_a_day_after_a_rotation(db, endpoint, judge, organisation):
    id_ = endpoint()
    judge()
    old = row(db, id_).secret
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.rotate(session, endpoint_row, actor="test")
    (leased,) = lease()
    assert secrets_of(leased) == (row(db, id_).secret, old)
    assert row(db, id_).secret != old

    with transaction() as session:
        delivering.release(session, leased)
        session.execute(
            update(WebhookEndpoint).values(
                previous_until=WebhookEndpoint.previous_until - timedelta(hours=24)
            )
        )
    (leased,) = lease()
    assert secrets_of(leased) == (row(db, id_).secret,)


def replay(organisation, id_, **which):
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        return deliveries.replay(session, endpoint_row, **which)


def test_a_replay_sends_known_deliveries_under_their_ids_and_makes_missing_ones(
    db, endpoint, judge, organisation
):
    early = judge(2)
    id_ = endpoint()
    late = judge(1)
    (leased,) = lease()
    (message,) = due(leased)
    settle(leased, attempt(db, message.id))

    assert replay(organisation, id_, lot="L7") == 3
    assert replay(organisation, id_, lot="L7") == 3

    told = {delivery.inspection_id: delivery for delivery in written(db)}
    assert set(told) == {*early, *late}
    assert told[late[0]].id == message.id
    assert {delivery.status for delivery in told.values()} == {DeliveryStatus.PENDING}
    assert {delivery.attempts for delivery in told.values()} == {0}


def test_a_replay_goes_by_time_lot_and_serial(db, endpoint, judge, organisation):
    first, second = judge(2)
    id_ = endpoint()
    with transaction() as session:
        session.execute(
            update(Inspection)
            .where(Inspection.id == first)
            .values(finished_at=Inspection.finished_at - timedelta(hours=2))
        )
    hour_ago = db.scalars(select(func.now())).one() - timedelta(hours=1)

    assert replay(organisation, id_, lot="L8") == 0
    assert replay(organisation, id_, serial="SN2", lot="L7") == 1
    assert [delivery.inspection_id for delivery in written(db)] == [second]
    assert replay(organisation, id_, until=hour_ago) == 1
    assert replay(organisation, id_, since=hour_ago) == 1


def test_a_replay_of_too_much_is_refused_whole(db, endpoint, judge, organisation, monkeypatch):
    monkeypatch.setattr(deliveries, "MOST_REPLAYED", 2)
    judge(3)
    id_ = endpoint()

    with pytest.raises(InvalidInput, match="shorter span"):
        replay(organisation, id_, lot="L7")
    assert written(db) == []


def test_old_deliveries_and_their_log_are_forgotten_and_what_waits_is_not(db, endpoint, judge):
    endpoint()
    judge(2)
    (leased,) = lease()
    settle(leased, attempt(db, due(leased)[0].id))
    with transaction() as session:
        deliveries.forget_old(session, days=30)
    assert len(written(db)) == 2

    with transaction() as session:
        for column in (WebhookDelivery.finished_at, WebhookDelivery.created_at):
            session.execute(update(WebhookDelivery).values({column: column - timedelta(days=31)}))
        session.execute(update(WebhookAttempt).values(at=WebhookAttempt.at - timedelta(days=31)))
    with transaction() as session:
        deliveries.forget_old(session, days=30)
    assert [delivery.status for delivery in written(db)] == [DeliveryStatus.PENDING]
    assert db.scalar(select(func.count()).select_from(WebhookAttempt)) == 0


def test_what_is_asked_for_again_is_not_forgotten_at_that_moment(db, endpoint, judge, organisation):
    id_ = endpoint()
    judge()
    (leased,) = lease()
    settle(leased, attempt(db, due(leased)[0].id))
    with transaction() as session:
        long_ago = WebhookDelivery.finished_at - timedelta(days=31)
        session.execute(update(WebhookDelivery).values(finished_at=long_ago))

    with transaction() as asking:
        endpoint_row = endpoints.lock(asking, organisation_id=organisation, endpoint_id=id_)
        assert deliveries.replay(asking, endpoint_row, lot="L7") == 1
        with held_up_at_most_a_second() as session:
            deliveries.forget_old(session, days=30)

    assert [delivery.status for delivery in written(db)] == [DeliveryStatus.PENDING]


def test_of_a_delivery_that_was_sent_again_and_again_the_last_attempts_are_read(
    db, endpoint, judge
):
    """Otherwise one list could hold gigabytes of replies."""
    endpoint()
    judge(2)
    often, once = (delivery.id for delivery in written(db))
    for delivery_id, count in ((often, deliveries.MOST_SHOWN + 5), (once, 1)):
        for number in range(count):
            db.add(attempt_row(delivery_id, number))
    db.commit()

    with transaction() as session:
        read = deliveries.attempts_of(session, [often, once])

    assert [entry.latency_ms for entry in read] == [*range(5, 25), 0]


def attempt_row(delivery_id, number):
    return WebhookAttempt(delivery_id=delivery_id, at=NOON, latency_ms=number, reply="")


def test_there_is_a_bound_on_endpoints(endpoint, monkeypatch):
    monkeypatch.setattr(endpoints, "MOST_ENDPOINTS", 2)
    endpoint()
    endpoint()

    with pytest.raises(InvalidInput, match="delete one"):
        endpoint()
