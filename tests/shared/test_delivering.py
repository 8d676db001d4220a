"""What becomes of a delivery: leases, retries, rests, giving up."""

from datetime import timedelta

import pytest
from sqlalchemy import delete, event, func, select, update

from shared import deliveries, delivering, endpoints
from shared.db import engine, transaction
from shared.delivering import PAUSE_AFTER, RETRY_AFTER
from shared.tables import AuditEntry
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

LEASE = timedelta(seconds=30)


def test_what_arrived_is_not_due_again(outbox, endpoint, judge):
    endpoint()
    judge(2)
    (leased,) = outbox.lease()
    first, second = outbox.due(leased)

    assert outbox.settle(leased, outbox.attempt(first.id), outbox.attempt(second.id, 204))

    assert {delivery.status for delivery in outbox.written()} == {DeliveryStatus.DELIVERED}
    assert outbox.due(leased) == []


def test_a_mixed_batch_is_recorded_one_by_one_in_the_log(db, outbox, endpoint, judge):
    id_ = endpoint()
    judge(4)
    (leased,) = outbox.lease()
    gone, *others = outbox.due(leased)
    with transaction() as session:
        session.execute(delete(WebhookDelivery).where(WebhookDelivery.id == gone.id))
    codes = dict(zip([other.id for other in others], (200, 500, 204), strict=True))
    tried = [outbox.attempt(message, code) for message, code in codes.items()]

    # In another order than they were made in, with one that was deleted meanwhile.
    assert outbox.settle(leased, tried[2], outbox.attempt(gone.id), tried[0], tried[1])

    log = db.scalars(select(WebhookAttempt).order_by(WebhookAttempt.id)).all()
    assert [(entry.delivery_id, entry.status_code) for entry in log] == list(codes.items())
    assert [delivery.attempts for delivery in outbox.written()] == [1, 1, 1]
    assert {delivery.id for delivery in outbox.written() if delivery.finished_at} == {
        message for message, code in codes.items() if code != 500
    }
    # The last of them arrived.
    assert outbox.row(id_).failures == 0


def test_settling_many_asks_the_database_as_often_as_settling_one(outbox, endpoint, judge):
    endpoint()
    judge(31)
    (leased,) = outbox.lease()
    first, *rest = [outbox.attempt(message.id) for message in outbox.due(leased)]
    asked = []

    def count(_connection, _cursor, statement, *_):
        asked.append(statement)

    event.listen(engine(), "before_cursor_execute", count)
    try:
        outbox.settle(leased, first)
        of_one = len(asked)
        outbox.settle(leased, *rest)
    finally:
        event.remove(engine(), "before_cursor_execute", count)

    assert len(asked) == 2 * of_one
    assert {delivery.status for delivery in outbox.written()} == {DeliveryStatus.DELIVERED}


def test_an_endpoint_is_delivered_to_by_one_deliverer_until_its_lease_ends(outbox, endpoint, judge):
    endpoint()
    judge()
    (leased,) = outbox.lease()
    (message,) = outbox.due(leased)
    assert outbox.lease() == []

    outbox.let_time_pass(LEASE * 2)
    (taken_over,) = outbox.lease()

    # The late one gets and records nothing: it is sent again by the other.
    assert outbox.due(leased) == []
    assert not outbox.settle(leased, outbox.attempt(message.id))
    assert [delivery.status for delivery in outbox.written()] == [DeliveryStatus.PENDING]
    assert outbox.settle(taken_over, outbox.attempt(outbox.due(taken_over)[0].id))


def test_a_heartbeat_keeps_a_lease_and_brings_no_lost_one_back(outbox, endpoint, judge):
    endpoint()
    judge()
    (leased,) = outbox.lease()
    outbox.let_time_pass(LEASE / 2)
    with transaction() as session:
        delivering.extend(session, [leased], duration=LEASE)
    outbox.let_time_pass(LEASE / 2)
    assert outbox.lease() == []

    outbox.let_time_pass(LEASE)
    (other,) = outbox.lease()
    with transaction() as session:
        delivering.extend(session, [leased], duration=LEASE * 10)
    outbox.let_time_pass(LEASE * 2)
    assert [one.id for one in outbox.lease()] == [other.id]


def test_an_endpoint_is_leased_while_more_verdicts_for_it_are_written(db, outbox, endpoint, judge):
    endpoint()
    judge()
    (later,) = judge()
    db.execute(delete(WebhookDelivery).where(WebhookDelivery.inspection_id == later))
    db.commit()

    with transaction() as writing:
        deliveries.announce(writing, [later])
        assert len(outbox.lease()) == 1


def test_endpoints_that_work_are_leased_before_those_that_fail(db, endpoint, judge):
    failing, works, fails_too = endpoint(), endpoint(), endpoint()
    judge()
    for id_ in (failing, fails_too):
        db.execute(update(WebhookEndpoint).where(WebhookEndpoint.id == id_).values(failures=1))
    db.commit()

    with transaction() as session:
        (first,) = delivering.lease(session, limit=1, duration=LEASE)
    assert first.id == works


def test_of_what_waits_for_a_failing_endpoint_only_what_is_sent_is_read(outbox, endpoint, judge):
    """Else ten dead ones have the deliverer read 400 inspections to send twenty."""
    endpoint()
    judge(5)
    (leased,) = outbox.lease()
    messages = outbox.due(leased)
    assert len(messages) == 5
    outbox.settle(leased, outbox.attempt(messages[0].id, 500))
    assert len(outbox.due(leased)) == 2

    outbox.settle(leased, outbox.attempt(messages[1].id))
    assert len(outbox.due(leased)) == 3


def test_a_busy_endpoint_gets_what_was_changed_with_the_next_batch(
    outbox, endpoint, judge, organisation
):
    """Its lease can last for hours: nothing that it was leased with may be kept so long."""
    id_ = endpoint()
    judge()
    (leased,) = outbox.lease()
    old = outbox.row(id_).secret
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.rotate(session, endpoint_row, actor="test")
        endpoint_row.url = "https://mes.example/moved"
    with transaction() as session:
        batch = delivering.due(session, leased, limit=1)
    assert batch.url == "https://mes.example/moved"
    assert batch.secrets == (outbox.row(id_).secret, old)

    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.pause(session, endpoint_row, actor="test")
    assert outbox.due(leased) == []


@pytest.mark.parametrize("status_code", [200, 500])
def test_what_is_asked_for_again_while_it_is_being_sent_is_sent_again(
    db, outbox, endpoint, judge, status_code
):
    """It may have been asked for because what was sent a moment before got lost over there."""
    id_ = endpoint()
    judge(2)
    (leased,) = outbox.lease()
    messages = outbox.due(leased)
    sent = [outbox.attempt(message.id, status_code) for message in messages]
    assert outbox.replay(id_, serial="SN1") == 1
    outbox.settle(leased, *sent)

    again, other = sorted(outbox.written(), key=lambda delivery: delivery.run_at, reverse=True)
    if status_code == 500:
        again, other = other, again
    assert again.status is DeliveryStatus.PENDING
    assert again.attempts == 0
    assert other.attempts == 1
    assert again.id in [message.id for message in outbox.due(leased)]
    # The log has what was sent, all the same.
    log = db.scalars(select(WebhookAttempt.delivery_id)).all()
    assert sorted(log) == sorted(message.id for message in messages)


def test_an_endpoint_to_which_all_was_sent_is_given_back_with_the_record_of_it(
    outbox, endpoint, judge
):
    endpoint()
    judge(2)
    (leased,) = outbox.lease()
    with transaction() as session:
        assert not delivering.due(session, leased, limit=2).is_all
        batch = delivering.due(session, leased, limit=3)
    assert batch.is_all
    first, second = batch.messages
    assert outbox.settle(leased, outbox.attempt(first.id))
    assert outbox.lease() == []

    assert not outbox.settle(leased, outbox.attempt(second.id), is_all=True)
    judge()
    assert len(outbox.lease()) == 1


def test_a_released_endpoint_is_free_at_once(outbox, endpoint, judge):
    endpoint()
    judge()
    (leased,) = outbox.lease()
    with transaction() as session:
        delivering.release(session, leased)

    assert len(outbox.lease()) == 1


def test_a_failure_is_tried_again_by_the_schedule_until_the_delivery_is_dead(
    db, outbox, endpoint, judge
):
    endpoint()
    judge()
    total = timedelta(0)
    for number, wait in enumerate(RETRY_AFTER, start=1):
        (leased,) = outbox.lease()
        (message,) = outbox.due(leased)
        outbox.settle(leased, outbox.attempt(message.id, 500))
        (delivery,) = outbox.written()
        now = db.scalars(select(func.now())).one()
        assert delivery.attempts == number
        assert wait * 0.89 <= delivery.run_at - now <= wait * 1.11
        with transaction() as session:
            delivering.release(session, leased)
        assert outbox.lease() == []
        outbox.let_time_pass(wait * 1.2)
        total += wait
        # Or the endpoint would be paused on the way.
        with transaction() as session:
            session.execute(update(WebhookEndpoint).values(failing_since=None))
    assert timedelta(days=2.9) < total < timedelta(days=3.1)

    (leased,) = outbox.lease()
    outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id, error="timed out"))
    (delivery,) = outbox.written()
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.DEAD, len(RETRY_AFTER) + 1)
    assert db.scalar(select(func.count()).select_from(WebhookAttempt)) == len(RETRY_AFTER) + 1


def test_retry_after_is_honoured_by_the_delivery_and_the_endpoint(db, outbox, endpoint, judge):
    id_ = endpoint()
    judge(2)
    (leased,) = outbox.lease()
    message = outbox.due(leased)[0]

    assert not outbox.settle(
        leased, outbox.attempt(message.id, 429, retry_after=timedelta(minutes=10))
    )

    now = db.scalars(select(func.now())).one()
    assert outbox.row(message.id, WebhookDelivery).run_at >= now + timedelta(minutes=9, seconds=59)
    assert outbox.row(id_).rests_until >= now + timedelta(minutes=9, seconds=59)


def test_retry_after_holds_although_the_post_beside_it_arrived(db, outbox, endpoint, judge):
    id_ = endpoint()
    judge(2)
    (leased,) = outbox.lease()
    busy, fine = outbox.due(leased)
    asks = outbox.attempt(busy.id, 429, retry_after=timedelta(minutes=10))

    assert not outbox.settle(leased, asks, outbox.attempt(fine.id))

    now = db.scalars(select(func.now())).one()
    assert outbox.row(id_).rests_until >= now + timedelta(minutes=9, seconds=59)
    assert outbox.row(id_).failures == 0


@pytest.mark.parametrize("ask", ["replay", "redeliver", "test"])
def test_whoever_asks_for_a_delivery_now_does_not_wait_for_the_rest_to_end(
    outbox, endpoint, judge, organisation, ask
):
    id_ = endpoint()
    judge()
    (leased,) = outbox.lease()
    (message,) = outbox.due(leased)
    outbox.settle(leased, outbox.attempt(message.id, 503, retry_after=timedelta(hours=5)))
    with transaction() as session:
        delivering.release(session, leased)
    outbox.let_time_pass(timedelta(seconds=30))
    assert outbox.lease() == []

    if ask == "replay":
        outbox.replay(id_, lot="L7")
    else:
        with transaction() as session:
            endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
            if ask == "test":
                deliveries.announce_test(session, endpoint_row)
            else:
                deliveries.redeliver(session, organisation_id=organisation, delivery_id=message.id)
    (leased,) = outbox.lease()
    assert len(outbox.due(leased)) == 1


def test_an_endpoint_that_fails_again_and_again_rests_and_what_waits_loses_no_attempt(
    outbox, endpoint, judge
):
    endpoint()
    judge(5)
    (leased,) = outbox.lease()
    messages = outbox.due(leased)
    assert outbox.settle(
        leased, outbox.attempt(messages[0].id, 500), outbox.attempt(messages[1].id, 500)
    )
    assert not outbox.settle(leased, outbox.attempt(messages[2].id, 500))

    with transaction() as session:
        delivering.release(session, leased)
    assert outbox.lease() == []
    attempts = [outbox.row(message.id, WebhookDelivery).attempts for message in messages]
    assert attempts == [1, 1, 1, 0, 0]

    outbox.let_time_pass(timedelta(seconds=6))
    (leased,) = outbox.lease()
    assert outbox.settle(leased, outbox.attempt(messages[3].id))
    assert outbox.row(leased.id).failures == 0


def test_410_disables_the_endpoint_and_ends_what_waits_for_it(db, outbox, endpoint, judge):
    id_ = endpoint()
    judge(3)
    (leased,) = outbox.lease()
    assert not outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id, 410))

    assert outbox.row(id_).status is EndpointStatus.DISABLED
    assert "410" in outbox.row(id_).status_reason
    assert {delivery.status for delivery in outbox.written()} == {DeliveryStatus.DEAD}
    judge()
    assert len(outbox.written()) == 3
    entry = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.subject, entry.actor) == ("webhook.disabled", id_, "deliverer")


def test_410_disables_also_what_was_paused_while_it_was_said(outbox, endpoint, judge, organisation):
    """Else it would be resumed, and what waited would be dead without a reason in sight."""
    id_ = endpoint()
    judge()
    (leased,) = outbox.lease()
    (message,) = outbox.due(leased)
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.pause(session, endpoint_row, actor="test")
    outbox.settle(leased, outbox.attempt(message.id, 410))

    assert outbox.row(id_).status is EndpointStatus.DISABLED
    assert "410" in outbox.row(id_).status_reason


def test_after_three_days_of_nothing_but_failures_it_is_paused_and_nothing_is_lost(
    db, outbox, endpoint, judge
):
    id_ = endpoint()
    judge(2)
    (leased,) = outbox.lease()
    outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id, error="refused"))
    outbox.let_time_pass(PAUSE_AFTER)
    (leased,) = outbox.lease()
    outbox.settle(leased, outbox.attempt(outbox.due(leased)[0].id, error="refused"))

    assert outbox.row(id_).status is EndpointStatus.PAUSED
    assert "refused" in outbox.row(id_).status_reason
    entry = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.subject, entry.actor) == ("webhook.paused", id_, "deliverer")
    assert entry.detail == {"reason": outbox.row(id_).status_reason}
    outbox.let_time_pass(timedelta(hours=1))
    assert outbox.lease() == []

    with transaction() as session:
        # Who has failed for days would come a day later.
        session.execute(update(WebhookDelivery).values(run_at=func.now() + timedelta(days=1)))
        endpoint_row = endpoints.lock(
            session, organisation_id=outbox.row(id_).organisation_id, endpoint_id=id_
        )
        endpoints.resume(session, endpoint_row, actor="test")
    (leased,) = outbox.lease()
    assert len(outbox.due(leased)) == 2


def test_both_secrets_sign_for_a_day_after_a_rotation(outbox, endpoint, judge, organisation):
    id_ = endpoint()
    judge()
    old = outbox.row(id_).secret
    with transaction() as session:
        endpoint_row = endpoints.lock(session, organisation_id=organisation, endpoint_id=id_)
        endpoints.rotate(session, endpoint_row, actor="test")
    (leased,) = outbox.lease()
    assert outbox.secrets_of(leased) == (outbox.row(id_).secret, old)
    assert outbox.row(id_).secret != old

    with transaction() as session:
        delivering.release(session, leased)
        session.execute(
            update(WebhookEndpoint).values(
                previous_until=WebhookEndpoint.previous_until - timedelta(hours=24)
            )
        )
    (leased,) = outbox.lease()
    assert outbox.secrets_of(leased) == (outbox.row(id_).secret,)
