from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from shared import claiming, inspections
from shared.db import transaction
from shared.errors import Conflict, NotFound
from shared.inspections import Failure, Recorded
from shared.tables import Inspection, InspectionEvent, Review, Status
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict

LEASE = timedelta(seconds=30)
SOON = datetime(2100, 1, 1, 12, 0, tzinfo=UTC)
"""Later than anything that the database has stamped with its own clock."""


def claim(limit=10, now=SOON, worker="worker:a"):
    with transaction() as session:
        return claiming.claim(session, limit=limit, lease=LEASE, worker=worker, now=now)


def sweep(now, max_attempts=3):
    with transaction() as session:
        return inspections.sweep(session, max_attempts=max_attempts, now=now)


def record(token, *ids, reasons=()):
    disposition = Disposition.HOLD if reasons else Disposition.PASS
    outcome = Outcome(Verdict.GOOD, disposition, tuple(reasons), False, False, True)
    scores = Scores(0.1, 0.002, 1.0, 20.0, ())
    results = [
        Recorded(
            id_, scores, outcome, "torch-cpu", f"{id_}-o.jpg", f"{id_}-a.jpg", [], {"infer": 5}
        )
        for id_ in ids
    ]
    with transaction() as session:
        return inspections.record(session, token=token, results=results, worker="worker:a")


def give_back(token, id_, *, spend_attempt=False, delay=timedelta(0), now=SOON):
    with transaction() as session:
        inspections.give_back(
            session,
            token=token,
            ids=[id_],
            worker="worker:a",
            code="storage_unavailable",
            why="storage away",
            spend_attempt=spend_attempt,
            delay=delay,
            now=now,
        )


def row(db, id_):
    db.expire_all()
    return db.scalars(select(Inspection).where(Inspection.id == id_)).one()


def events(db, id_):
    query = (
        select(InspectionEvent.actor, InspectionEvent.event)
        .where(InspectionEvent.inspection_id == id_)
        .order_by(InspectionEvent.id)
    )
    return [tuple(event) for event in db.execute(query)]


def test_the_most_urgent_photo_is_claimed_first_and_then_the_oldest(queued):
    old, urgent, young = queued(5, 9, 5)

    assert [one.id for one in claim(limit=1).inspections] == [urgent]
    assert [one.id for one in claim(limit=1).inspections] == [old]
    assert [one.id for one in claim(limit=1).inspections] == [young]
    assert claim() is None


def test_two_workers_never_claim_the_same_photo(queued):
    ids = queued(5, 5, 5, 5)
    with transaction() as first, transaction() as second:
        a = claiming.claim(first, limit=3, lease=LEASE, worker="worker:a", now=SOON)
        # The first claim is not committed yet: its rows are skipped, not waited for.
        b = claiming.claim(second, limit=3, lease=LEASE, worker="worker:b", now=SOON)

    assert len(a.inspections) == 3
    assert len(b.inspections) == 1
    assert {one.id for one in (*a.inspections, *b.inspections)} == set(ids)


def test_a_verdict_and_its_history_are_written_together(db, queued):
    (id_,) = queued(5)
    batch = claim()

    assert record(batch.token, id_) == {id_}

    inspection = row(db, id_)
    assert inspection.status is Status.SUCCEEDED
    assert inspection.verdict is Verdict.GOOD
    assert inspection.lease_token is None
    assert inspection.defect_probability == 0.1
    assert set(inspection.timings_ms) == {"infer", "total"}
    assert events(db, id_) == [
        ("test", "accepted"),
        ("worker:a", "claimed"),
        ("worker:a", "succeeded"),
    ]


def test_a_worker_that_wakes_up_late_changes_nothing(db, queued):
    (id_,) = queued(5)
    late = claim()
    sweep(SOON + timedelta(seconds=31))
    current = claim(now=SOON + timedelta(seconds=32), worker="worker:b")

    assert record(late.token, id_) == frozenset()

    assert row(db, id_).status is Status.RUNNING
    assert row(db, id_).lease_token == current.token
    assert record(current.token, id_) == {id_}
    assert [event for _, event in events(db, id_)].count("succeeded") == 1


def test_a_verdict_is_not_written_twice(db, queued):
    (id_,) = queued(5)
    batch = claim()
    record(batch.token, id_, reasons=[ReviewReason.NEAR_THRESHOLD])

    assert record(batch.token, id_, reasons=[ReviewReason.NEAR_THRESHOLD]) == frozenset()
    assert len(db.scalars(select(Review)).all()) == 1


def test_photos_of_a_dead_worker_are_queued_again_when_the_lease_ends(db, queued):
    ids = queued(5, 5)
    claim()  # ...and the worker dies

    assert sweep(SOON + timedelta(seconds=29)).requeued == 0
    swept = sweep(SOON + timedelta(seconds=31))

    assert swept.requeued == 2
    assert {row(db, id_).status for id_ in ids} == {Status.QUEUED}


def test_a_heartbeat_keeps_the_lease(db, queued):
    (id_,) = queued(5)
    batch = claim()
    with transaction() as session:
        claiming.extend(session, [batch.token], lease=LEASE, now=SOON + timedelta(seconds=20))

    assert sweep(SOON + timedelta(seconds=31)).requeued == 0
    assert row(db, id_).lease_until == SOON + timedelta(seconds=50)


def test_a_heartbeat_does_not_bring_back_a_lost_lease(db, queued):
    (id_,) = queued(5)
    batch = claim()
    sweep(SOON + timedelta(seconds=31))
    with transaction() as session:
        claiming.extend(session, [batch.token], lease=LEASE, now=SOON + timedelta(seconds=32))

    assert row(db, id_).status is Status.QUEUED
    assert row(db, id_).lease_until is None


def test_photos_that_crashed_a_worker_are_judged_alone(queued):
    ids = queued(5, 5, 5)
    claim()  # all three die together
    sweep(SOON + timedelta(seconds=31))

    batches = [claim(now=SOON + timedelta(seconds=32)) for _ in ids]

    assert [len(batch.inspections) for batch in batches] == [1, 1, 1]


def test_a_photo_to_be_judged_alone_does_not_hold_up_the_others(queued):
    queued(5)
    claim()
    sweep(SOON + timedelta(seconds=31))
    queued(9, 9)  # more urgent than the one that is alone

    batch = claim(now=SOON + timedelta(seconds=32))

    assert len(batch.inspections) == 2


def test_the_last_attempt_fails_and_is_held_for_a_person(db, queued):
    (id_,) = queued(5)
    for minute in (0, 1, 2):
        assert claim(now=SOON + timedelta(minutes=minute)) is not None
        swept = sweep(SOON + timedelta(minutes=minute, seconds=31))

    assert swept.failed == (id_,)
    inspection = row(db, id_)
    assert inspection.status is Status.FAILED
    assert inspection.disposition is Disposition.HOLD
    assert inspection.error_code == "attempts_exhausted"
    assert inspection.review.reasons == ["inspection_failed"]
    assert claim(now=SOON + timedelta(minutes=5)) is None


def test_a_failure_is_held_and_never_retried(db, queued):
    (id_,) = queued(5)
    batch = claim()
    with transaction() as session:
        inspections.fail(
            session,
            token=batch.token,
            failures=[Failure(id_, "unreadable_image", "cut off")],
            worker="worker:a",
        )

    assert row(db, id_).error_code == "unreadable_image"
    assert row(db, id_).verdict is None
    assert row(db, id_).disposition is Disposition.HOLD
    assert claim(now=SOON + timedelta(hours=1)) is None


def test_giving_back_because_the_world_is_away_spends_no_attempt(db, queued):
    (id_,) = queued(5)
    batch = claim()
    give_back(batch.token, id_, delay=timedelta(minutes=1))

    assert row(db, id_).attempts == 0
    assert row(db, id_).is_alone is False
    assert claim(now=SOON + timedelta(seconds=59)) is None
    assert claim(now=SOON + timedelta(seconds=60)) is not None


@pytest.mark.parametrize(("waited", "pause"), [(8, 2), (80, 10), (8000, 30)])
def test_what_has_waited_long_and_cannot_be_judged_comes_back_later(db, queued, waited, pause):
    (id_,) = queued(5)
    moment = row(db, id_).created_at + timedelta(seconds=waited)
    batch = claim(now=moment)
    give_back(batch.token, id_, delay=timedelta(seconds=2), now=moment)

    assert row(db, id_).run_at == moment + timedelta(seconds=pause)


def test_giving_back_with_a_lost_lease_changes_nothing(db, queued):
    (id_,) = queued(5)
    batch = claim()
    record(batch.token, id_)
    give_back(batch.token, id_, spend_attempt=True)

    assert row(db, id_).status is Status.SUCCEEDED


def test_a_canceled_photo_is_neither_claimed_nor_recorded(db, organisation, queued):
    waiting, running = queued(5, 9)
    batch = claim(limit=1)
    for id_ in (waiting, running, running):
        with transaction() as session:
            inspections.cancel(
                session, organisation_id=organisation, inspection_id=id_, actor="key_x"
            )

    assert record(batch.token, running) == frozenset()
    assert claim() is None
    assert row(db, running).status is Status.CANCELED
    assert [event for _, event in events(db, running)] == ["accepted", "claimed", "canceled"]


def test_a_finished_inspection_cannot_be_canceled(organisation, queued):
    (id_,) = queued(5)
    record(claim().token, id_)

    with pytest.raises(Conflict), transaction() as session:
        inspections.cancel(session, organisation_id=organisation, inspection_id=id_, actor="k")


def test_nobody_cancels_what_belongs_to_another_organisation(queued):
    (id_,) = queued(5)

    with pytest.raises(NotFound), transaction() as session:
        inspections.cancel(session, organisation_id="org_other", inspection_id=id_, actor="k")


def test_a_review_is_opened_in_the_transaction_of_the_verdict(db, organisation, queued):
    (id_,) = queued(5)
    record(claim().token, id_, reasons=[ReviewReason.MODEL_DISAGREEMENT])

    review = db.scalars(select(Review)).one()
    assert review.inspection_id == id_
    assert review.organisation_id == organisation
    assert review.reasons == ["model_disagreement"]
