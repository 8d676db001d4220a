from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from shared import claiming, inspections, retention, reviews
from shared.db import transaction
from shared.inspections import Recorded
from shared.tables import Inspection, InspectionEvent, Review
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict

TIMINGS = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1.0)


@pytest.fixture
def judged(queued):
    """A photo that was judged so many days ago; its id."""

    def judged(days, *reasons):
        (id_,) = queued(5)
        with transaction() as session:
            batch = claiming.claim(
                session, limit=1, lease=timedelta(seconds=30), worker="worker:test"
            )
        disposition = Disposition.HOLD if reasons else Disposition.PASS
        outcome = Outcome(Verdict.GOOD, disposition, reasons, False, False, True)
        scores = Scores(0.1, 0.002, 1.0, 20.0, ())
        result = Recorded(
            id_, scores, outcome, "torch-cpu", f"maps/{id_}-o", f"maps/{id_}-a", [], TIMINGS
        )
        with transaction() as session:
            inspections.record(session, token=batch.token, results=[result], worker="worker:test")
            session.execute(
                update(Inspection)
                .where(Inspection.id == id_)
                .values(finished_at=Inspection.finished_at - timedelta(days=days))
            )
        return id_

    return judged


def keep_for(days, organisation):
    with transaction() as session:
        retention.set_retention(
            session, organisation_id=organisation, name="bottle", days=days, actor="key_1"
        )


def expired(limit=100):
    with transaction() as session:
        return retention.find_expired(session, limit=limit)


def test_pictures_are_kept_for_ever_unless_told_otherwise(judged):
    judged(days=10_000)

    assert expired() == []


def test_pictures_expire_so_many_days_after_the_verdict(organisation, judged):
    old, _ = judged(days=31), judged(days=29)
    keep_for(30, organisation)

    (found,) = expired()

    assert found.inspection_id == old
    assert found.keys == (f"images/{old}.png", f"maps/{old}-o", f"maps/{old}-a")


def test_the_oldest_go_first_and_no_more_than_asked_for(organisation, judged):
    ids = [judged(days=days) for days in (40, 60, 50)]
    keep_for(30, organisation)

    assert [found.inspection_id for found in expired(limit=2)] == [ids[1], ids[2]]


def decide(organisation, *, days_ago):
    """Somebody takes the part, whether it is decided already or not, and calls it good."""
    then = datetime.now(UTC) - timedelta(days=days_ago)
    with transaction() as session:
        claimed = reviews.claim(
            session,
            organisation_id=organisation,
            review_id=session.scalars(select(Review.id)).one(),
            reviewer="key_one",
            lease=timedelta(minutes=1),
            now=then,
        )
        reviews.decide(
            session,
            organisation_id=organisation,
            review_id=claimed.id,
            lease_token=claimed.lease_token,
            reviewer="key_one",
            decided=reviews.Decided(Verdict.GOOD),
            now=then,
        )


def test_a_part_that_waits_for_a_person_keeps_its_pictures(organisation, judged):
    judged(40, ReviewReason.NEAR_THRESHOLD)
    keep_for(30, organisation)
    assert expired() == []


def test_it_keeps_them_as_long_again_after_each_decision(organisation, judged):
    held = judged(40, ReviewReason.NEAR_THRESHOLD)
    keep_for(30, organisation)

    decide(organisation, days_ago=31)
    assert [found.inspection_id for found in expired()] == [held]

    decide(organisation, days_ago=29)
    assert expired() == []


def test_what_waits_to_be_judged_keeps_its_photo(organisation, queued):
    queued(5)
    keep_for(1, organisation)
    with transaction() as session:
        session.execute(update(Inspection).values(created_at=Inspection.created_at - timedelta(9)))

    assert expired() == []


def test_what_is_noted_as_deleted_is_not_found_again_and_has_one_event(organisation, judged, db):
    old = judged(days=31)
    keep_for(30, organisation)
    for _ in range(2):
        with transaction() as session:
            retention.note_deleted(session, [old], actor="worker:test")

    assert expired() == []
    events = db.scalars(
        select(InspectionEvent.event).where(InspectionEvent.inspection_id == old)
    ).all()
    assert events.count("pictures_deleted") == 1
