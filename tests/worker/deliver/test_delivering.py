"""The deliverer over real rows and real sockets: what arrives where, and when."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update
from standardwebhooks import Webhook

from shared import claiming, deliveries, delivering, endpoints, inspections, webhook_events
from shared.addresses import parse_networks
from shared.db import transaction
from shared.endpoints import SUBSCRIBABLE, Filter
from shared.inspection_document import InspectionOut
from shared.inspections import Recorded
from shared.tables import Inspection
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from shared.webhook_tables import (
    DeliveryStatus,
    EndpointStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from shared.workers import is_deliverer_alive
from worker.deliver.delivering import Delivering


@pytest.fixture
def deliverer(services):
    made = Delivering(
        name="deliverer:here-1",
        base_url="https://inspection.plant",
        allowed=parse_networks("127.0.0.0/8"),
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture
def subscribe(organisation):
    def subscribe(receiver):
        with transaction() as session:
            return endpoints.create(
                session,
                organisation_id=organisation,
                url=f"{receiver.url}/hook",
                events=SUBSCRIBABLE,
                filter_=Filter(),
                description="",
                actor="test",
            )

    return subscribe


@pytest.fixture
def judge(queued):
    def judge(count=1):
        queued(*[5] * count)
        with transaction() as session:
            batch = claiming.claim(
                session, limit=500, lease=timedelta(seconds=30), worker="worker:a"
            )
            outcome = Outcome(Verdict.GOOD, Disposition.PASS, (), False, False, True)
            scores = Scores(0.1, 0.001, 1.0, 10.0, ())
            timings = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1.0)
            results = [
                Recorded(one.id, scores, outcome, "cpu", "o", "a", [], timings)
                for one in batch.inspections
            ]
            inspections.record(session, token=batch.token, results=results, worker="worker:a")
        return [one.id for one in batch.inspections]

    return judge


def rows(db):
    db.expire_all()
    return list(db.scalars(select(WebhookDelivery)))


def are_delivered(db):
    return all(row.status is DeliveryStatus.DELIVERED for row in rows(db))


def make_due():
    """Retries come nearer, and rests end."""
    with transaction() as session:
        session.execute(
            update(WebhookDelivery).values(run_at=WebhookDelivery.run_at - timedelta(days=1))
        )
        session.execute(update(WebhookEndpoint).values(rests_until=None))


def test_the_mes_gets_the_inspection_signed_with_its_part_on_top(
    db, deliverer, receiver, subscribe, judge, wait_until
):
    at = receiver()
    endpoint = subscribe(at)
    (id_,) = judge()
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "the delivery")

    (request,) = at.requests
    said = Webhook(endpoint.secret).verify(request.body, request.headers)
    (row,) = rows(db)
    assert request.headers["webhook-id"] == row.id
    assert said["type"] == "inspection.completed"
    assert (said["serial"], said["lot"], said["line"]) == ("SN1", "L7", None)
    inspection = db.get_one(Inspection, id_)
    assert said["data"] == json.loads(
        InspectionOut.of(inspection, "https://inspection.plant").model_dump_json()
    )
    assert said["data"]["overlay_url"].startswith("https://inspection.plant/v1/inspections/insp_")


def test_long_metadata_is_left_to_the_link(db, receiver, subscribe, judge, deliverer, wait_until):
    at = receiver()
    subscribe(at)
    judge()
    with transaction() as session:
        session.execute(update(Inspection).values(annotations={"log": "ö" * 16_000}))
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "the delivery")

    (request,) = at.requests
    assert len(request.body) <= webhook_events.MOST_BYTES
    assert json.loads(request.body)["data"]["metadata"] == {}


def test_a_test_arrives_although_it_is_about_no_inspection(
    db, receiver, subscribe, deliverer, wait_until
):
    at = receiver()
    endpoint = subscribe(at)
    with transaction() as session:
        deliveries.announce_test(session, endpoint)
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "the test")

    (request,) = at.requests
    assert json.loads(request.body)["type"] == "webhook.test"


def test_three_failures_and_then_it_arrives_under_one_id(
    db, deliverer, receiver, subscribe, judge, wait_until
):
    async def three_times_out_of_order(request, writer):
        status = 500 if len(at.requests) <= 3 else 200
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

    at = receiver(three_times_out_of_order)
    subscribe(at)
    judge()
    for attempt in range(1, 5):
        deliverer.wake()
        wait_until(lambda n=attempt: len(at.requests) == n, "an attempt")
        wait_until(lambda n=attempt: rows(db)[0].attempts == n, "its record")
        make_due()
    wait_until(lambda: are_delivered(db), "the delivery")

    assert len({request.headers["webhook-id"] for request in at.requests}) == 1
    log = db.scalars(select(WebhookAttempt.status_code).order_by(WebhookAttempt.id)).all()
    assert log == [500, 500, 500, 200]


def test_what_a_wrong_certificate_held_up_arrives_once_it_is_right(
    db, authority, deliverer, receiver, present, subscribe, judge, wait_until
):
    tls = present(authority, "mes.example")
    at = receiver(tls=tls)
    subscribe(at)
    judge()
    deliverer.wake()
    wait_until(lambda: rows(db)[0].attempts == 1, "the record of the attempt")

    (attempt,) = db.scalars(select(WebhookAttempt))
    assert attempt.status_code is None
    assert "certificate is not valid" in attempt.error
    (row,) = rows(db)
    assert row.status is DeliveryStatus.PENDING
    # After 5 s, a tenth more or less, from when it was recorded.
    assert 4 < (row.run_at - attempt.at).total_seconds() < 6.5
    assert at.requests == []

    present(authority, "localhost", tls)
    make_due()
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "the delivery")
    assert [request.headers["webhook-id"] for request in at.requests] == [row.id]


def test_it_says_that_it_is_alive_until_it_is_stopped(db, deliverer, wait_until):
    wait_until(lambda: is_deliverer_alive(db), "its word")
    deliverer.stop()
    db.rollback()

    assert not is_deliverer_alive(db)


def test_410_ends_it(db, deliverer, receiver, subscribe, judge, wait_until):
    at = receiver(receiver.reply(410))
    endpoint = subscribe(at)
    judge(20)
    deliverer.wake()
    wait_until(lambda: {row.status for row in rows(db)} == {DeliveryStatus.DEAD}, "the end of it")

    assert len(at.requests) <= 2
    assert db.get_one(WebhookEndpoint, endpoint.id).status is EndpointStatus.DISABLED


def test_at_most_two_are_in_flight_to_one_endpoint(
    db, deliverer, receiver, subscribe, judge, wait_until
):
    now, most = 0, 0

    async def count(request, writer):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")

    at = receiver(count)
    subscribe(at)
    judge(60)
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "all of them")

    assert len(at.requests) == 60
    assert most == 2
    assert at.connections == 2


def test_a_good_endpoint_does_not_wait_for_dead_ones(
    db, deliverer, receiver, subscribe, judge, wait_until
):
    async def silence(request, writer):
        await asyncio.sleep(60)

    for _ in range(10):
        subscribe(receiver(silence))
    good = receiver()
    subscribe(good)
    judge(50)
    started = time.monotonic()
    deliverer.wake()
    wait_until(lambda: len(good.requests) == 50, "all for the good one")

    # The dead ones hold theirs for 15 s each.
    assert time.monotonic() - started < 14


def test_what_a_killed_deliverer_left_is_sent_by_the_next(
    db, deliverer, receiver, subscribe, judge, wait_until
):
    at = receiver()
    endpoint = subscribe(at)
    judge(5)
    with transaction() as session:
        session.execute(
            update(WebhookEndpoint).values(
                lease_token="of the dead", lease_until=WebhookEndpoint.created_at
            )
        )
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "all of them")

    assert len({request.headers["webhook-id"] for request in at.requests}) == 5
    assert db.get_one(WebhookEndpoint, endpoint.id).failures == 0


def test_one_message_that_cannot_be_made_holds_up_no_other(
    db, deliverer, receiver, subscribe, judge, wait_until, monkeypatch
):
    make = webhook_events.body
    at = receiver()
    subscribe(at)
    ids = judge(6)

    def cannot_make_the_first(due, base_url):
        if due.inspection.id == ids[0]:
            raise ValueError("a row that nobody thought of")
        return make(due, base_url)

    monkeypatch.setattr(webhook_events, "body", cannot_make_the_first)
    deliverer.wake()
    wait_until(
        lambda: sum(row.status is DeliveryStatus.DELIVERED for row in rows(db)) == 5, "the others"
    )

    arrived = {json.loads(request.body)["data"]["id"] for request in at.requests}
    assert arrived == set(ids[1:])
    (failed,) = db.scalars(select(WebhookAttempt).where(WebhookAttempt.error.is_not(None)))
    assert failed.error == "not sent, by a fault of ours: ValueError"
    (waiting,) = (row for row in rows(db) if row.status is DeliveryStatus.PENDING)
    assert (waiting.inspection_id, waiting.attempts) == (ids[0], 1)


def test_the_deliverer_outlives_a_surprise(
    db, deliverer, receiver, subscribe, judge, wait_until, monkeypatch
):
    lease, failed = delivering.lease, []

    def fail_once(session, **named):
        if not failed:
            failed.append(True)
            raise ValueError("what nobody thought of")
        return lease(session, **named)

    monkeypatch.setattr(delivering, "lease", fail_once)
    at = receiver()
    subscribe(at)
    judge()
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "the delivery")

    assert failed
    assert len(at.requests) == 1


def test_a_busy_endpoint_is_signed_for_with_the_new_secret_soon_after_a_rotation(
    db, deliverer, receiver, subscribe, judge, organisation, wait_until
):
    """All in one lease: there is always more to send."""
    rotated = []

    async def rotate_in_the_middle(request, writer):
        if len(at.requests) == 10:
            with transaction() as session:
                row = endpoints.lock(session, organisation_id=organisation, endpoint_id=endpoint.id)
                endpoints.rotate(session, row, actor="test")
                rotated.append(row.secret)
        writer.write(b"HTTP/1.1 204 X\r\n\r\n")

    at = receiver(rotate_in_the_middle)
    endpoint = subscribe(at)
    judge(100)
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "all of them")

    old, new = Webhook(endpoint.secret), Webhook(rotated[0])
    for request in at.requests:
        old.verify(request.body, request.headers)
    # What was being sent at that moment, a batch of 40, was signed with the old one alone.
    for request in at.requests[40:]:
        new.verify(request.body, request.headers)
    assert len(at.requests) == 100


def let_time_pass(duration):
    """All that lies in the future comes nearer."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(run_at=WebhookDelivery.run_at - duration))
        session.execute(
            update(WebhookEndpoint).values(
                rests_until=WebhookEndpoint.rests_until - duration,
                failing_since=WebhookEndpoint.failing_since - duration,
            )
        )


def test_after_an_hour_of_silence_a_replay_by_lot_brings_everything(
    db, deliverer, receiver, subscribe, judge, organisation, wait_until
):
    is_down = True
    refused, taken = [], []

    async def down_for_an_hour(request, writer):
        if is_down:
            refused.append(request)
            return "close"
        taken.append(json.loads(request.body)["data"]["id"])
        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n")
        return None

    at = receiver(down_for_an_hour)
    endpoint = subscribe(at)
    ids = []
    for _ in range(13):
        tried = len(refused)
        ids += judge(2)
        let_time_pass(timedelta(minutes=5))
        deliverer.wake()
        wait_until(lambda n=tried: len(refused) > n, "an attempt")
        wait_until(
            lambda: db.scalar(select(func.count(WebhookAttempt.id))) == len(refused), "its record"
        )
    db.expire_all()
    row = db.get_one(WebhookEndpoint, endpoint.id)
    assert row.status is EndpointStatus.ACTIVE
    assert datetime.now(UTC) - row.failing_since >= timedelta(hours=1)
    assert row.failures >= 13
    assert {row.status for row in rows(db)} == {DeliveryStatus.PENDING}

    is_down = False
    with transaction() as session:
        row = endpoints.lock(session, organisation_id=organisation, endpoint_id=endpoint.id)
        assert deliveries.replay(session, row, lot="L7") == 26
    deliverer.wake()
    wait_until(lambda: are_delivered(db), "all of them")

    assert set(taken) == set(ids)
    log = db.scalars(select(WebhookAttempt)).all()
    assert {entry.delivery_id for entry in log if entry.status_code == 200} == {
        row.id for row in rows(db)
    }
    assert len([entry for entry in log if entry.error]) == len(refused)
