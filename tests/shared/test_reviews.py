"""Who looks at which part, and what becomes of it once somebody has decided."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from shared import accepting, claiming, deliveries, inspections, products, reviews, shadows
from shared.db import engine, transaction
from shared.errors import Conflict, InvalidInput, NotFound
from shared.inspections import Failure, Recorded
from shared.reviews import Decided, Filters
from shared.shadows import ShadowJudgement
from shared.tables import (
    AuditEntry,
    Inspection,
    InspectionEvent,
    Review,
    ReviewStatus,
    ShadowResult,
    VerdictSource,
)
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict
from shared.webhook_tables import DeliveryStatus, Event, WebhookDelivery

LEASE = timedelta(minutes=2)
SOON = datetime(2100, 1, 1, 12, 0, tzinfo=UTC)
"""Later than anything that the database has stamped with its own clock."""
GOOD = Decided(Verdict.GOOD)
SCORES = Scores(0.1, 0.002, 1.0, 20.0, ())
REGION = [[[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]]


@pytest.fixture
def accept(organisation) -> Callable[..., str]:
    """A photo in the queue; its id."""

    def accept(priority=5, **part):
        id_ = accepting.new_inspection_id()
        image = accepting.StoredImage(f"images/{id_}.png", "00" * 32, 1, "image/png", 900, 900)
        with transaction() as session:
            accepting.accept(
                session,
                organisation_id=organisation,
                product="bottle",
                photo=accepting.Submitted(id_, image, accepting.Part(**part), priority),
                actor="test",
            )
        return id_

    return accept


def judge(*reasons, disposition=Disposition.PASS, shadow=None):
    """All that is queued."""
    verdict = Verdict.DEFECTIVE if disposition is Disposition.REJECT else Verdict.GOOD
    outcome = Outcome(
        verdict,
        Disposition.HOLD if reasons else disposition,
        reasons,
        verdict is Verdict.DEFECTIVE,
        False,
        True,
    )
    with transaction() as session:
        batch = claiming.claim(session, limit=100, lease=LEASE, worker="worker:a")
        results = [
            Recorded(one.id, SCORES, outcome, "cpu", "o", "a", [], {}, shadow)
            for one in batch.inspections
        ]
        inspections.record(session, token=batch.token, results=results, worker="worker:a")


@pytest.fixture
def hold(accept) -> Callable[..., str]:
    """A part that a person must look at; the id of its review."""

    def hold(priority=5, *, reason=ReviewReason.NEAR_THRESHOLD, **part):
        id_ = accept(priority, **part)
        judge(reason)
        with transaction() as session:
            return session.scalars(select(Review.id).where(Review.inspection_id == id_)).one()

    return hold


def claim_next(reviewer="key_anna", *, now=SOON, organisation_id="org_plant", **filters):
    with transaction() as session:
        return reviews.claim_next(
            session,
            organisation_id=organisation_id,
            reviewer=reviewer,
            filters=Filters(**filters),
            lease=LEASE,
            now=now,
        )


def claim(review_id, reviewer="key_anna", *, now=SOON, organisation_id="org_plant"):
    with transaction() as session:
        return reviews.claim(
            session,
            organisation_id=organisation_id,
            review_id=review_id,
            reviewer=reviewer,
            lease=LEASE,
            now=now,
        )


def extend(row, *, now, organisation_id="org_plant"):
    with transaction() as session:
        return reviews.extend(
            session,
            organisation_id=organisation_id,
            review_id=row.id,
            lease_token=row.lease_token,
            lease=LEASE,
            now=now,
        )


def release(row, *, skip=False, now=SOON, organisation_id="org_plant"):
    with transaction() as session:
        reviews.release(
            session,
            organisation_id=organisation_id,
            review_id=row.id,
            lease_token=row.lease_token,
            skip=skip,
            now=now,
        )


def decide(
    row, decided=GOOD, *, now=SOON, reviewer="key_anna", token=None, organisation_id="org_plant"
):
    with transaction() as session:
        return reviews.decide(
            session,
            organisation_id=organisation_id,
            review_id=row.id,
            lease_token=token or row.lease_token,
            reviewer=reviewer,
            decided=decided,
            now=now,
        )


def inspection_of(db, review_id):
    db.expire_all()
    return db.get_one(Review, review_id).inspection


def decisions(db, review_id):
    db.expire_all()
    return reviews.decisions_of(db, [review_id])


def everything(db):
    """All that a decision could change, as it is in the tables."""
    tables = (
        *("reviews", "review_decisions", "inspections", "inspection_events"),
        *("audit_entries", "webhook_deliveries"),
    )
    db.expire_all()
    return [db.scalar(text(f"SELECT json_agg(t ORDER BY t.id) FROM {table} t")) for table in tables]


# -- which one is next


def test_the_most_urgent_comes_first_then_what_came_from_a_line_then_the_oldest(hold):
    by_hand = hold(5)
    oldest = hold(5, line="L1")
    youngest = hold(5, line="L2")
    urgent = hold(9)

    order = [claim_next().id for _ in range(4)]

    assert order == [urgent, oldest, youngest, by_hand]
    assert claim_next() is None


@pytest.mark.parametrize(
    "filters",
    [
        {"product": "bottle", "line": "L2"},
        {"station": "cam2"},
        {"lot": "B"},
        {"reason": ReviewReason.OUT_OF_DOMAIN},
        {"line": "L2", "station": "cam2", "lot": "B", "reason": ReviewReason.OUT_OF_DOMAIN},
    ],
)
def test_a_filter_leaves_only_what_matches_all_of_it(hold, filters):
    hold(9, line="L1", station="cam1", lot="A")
    wanted = hold(
        1, line="L2", station="cam2", lot="B", reason=ReviewReason.OUT_OF_DOMAIN, serial="S2"
    )

    assert claim_next(**filters).id == wanted
    assert claim_next(**filters) is None


def test_a_filter_that_nothing_matches_gives_nothing(hold):
    hold(line="L1", lot="A")

    assert claim_next(line="L1", lot="B") is None
    assert claim_next(product="screw") is None


def test_what_somebody_looks_at_is_offered_to_nobody_else_until_the_lease_ends(hold):
    review_id = hold()
    claim_next("key_anna")

    assert claim_next("key_ben", now=SOON + LEASE - timedelta(microseconds=1)) is None
    again = claim_next("key_ben", now=SOON + LEASE)
    assert (again.id, again.claimed_by) == (review_id, "key_ben")


def test_two_who_claim_at_the_same_moment_get_different_parts(hold):
    first, second = hold(9), hold(5)
    with transaction() as anna, transaction() as ben:
        asked = {"organisation_id": "org_plant", "filters": Filters(), "lease": LEASE, "now": SOON}
        a = reviews.claim_next(anna, reviewer="key_anna", **asked)
        # The first claim is not committed yet: its row is skipped, not waited for.
        b = reviews.claim_next(ben, reviewer="key_ben", **asked)

    assert (a.id, b.id) == (first, second)


def test_what_somebody_skipped_goes_to_others_first_and_comes_back_last(hold):
    urgent, other = hold(9), hold(1)
    release(claim_next("key_anna"), skip=True)

    assert claim_next("key_anna").id == other
    ben = claim_next("key_ben")
    assert ben.id == urgent
    release(ben)

    # Nothing else is left, so the one who skipped it sees it again.
    assert claim_next("key_anna").id == urgent


def test_skipping_twice_counts_once(db, hold):
    review_id = hold()
    for _ in range(2):
        release(claim_next("key_anna"), skip=True)

    assert db.get_one(Review, review_id).skipped_by == ["key_anna"]


def test_what_is_released_is_free_at_once_for_anybody(db, hold):
    review_id = hold()
    release(claim_next("key_anna"))

    row = db.get_one(Review, review_id)
    assert (row.lease_token, row.lease_until, row.claimed_by, row.skipped_by) == (None,) * 3 + ([],)
    assert claim_next("key_ben").id == review_id


def test_a_claim_that_waited_for_a_decision_knows_it(hold, wait_until):
    review_id = hold()
    mine = claim(review_id)
    with ThreadPoolExecutor(1) as other:
        with transaction() as session:
            reviews.decide(
                session,
                organisation_id="org_plant",
                review_id=review_id,
                lease_token=mine.lease_token,
                decided=GOOD,
                reviewer="key_anna",
                now=SOON,
            )
            session.flush()
            waiting = other.submit(claim, review_id, "key_ben", now=SOON + 2 * LEASE)
            wait_until(_is_anybody_waiting, "the second claim waits")
        row = waiting.result(timeout=30)

    assert row.decision is not None
    assert row.decision_id == row.decision.id


def _is_anybody_waiting():
    with transaction() as session:
        return session.scalars(
            select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
        ).one()


def test_what_is_decided_waits_for_nobody(hold):
    hold()
    decide(claim_next())

    assert claim_next(now=SOON + timedelta(days=1)) is None


# -- leases


def test_a_part_that_somebody_looks_at_is_refused_to_others_and_says_until_when(hold):
    review_id = hold()
    claim(review_id, "key_anna")

    with pytest.raises(Conflict, match="until 12:02:00 UTC") as refusal:
        claim(review_id, "key_ben", now=SOON + timedelta(seconds=119))

    assert refusal.value.code == "held_by_another"
    assert claim(review_id, "key_ben", now=SOON + LEASE).claimed_by == "key_ben"


def test_wherever_the_database_stands_moments_are_in_utc(hold):
    review_id = hold()
    with transaction() as session:
        session.execute(text("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'"))
    engine().dispose()
    try:
        claim(review_id, "key_anna")
        with pytest.raises(Conflict, match="until 12:02:00 UTC"):
            claim(review_id, "key_ben")
    finally:
        with transaction() as session:
            session.execute(text("ALTER DATABASE postgres RESET timezone"))
        engine().dispose()


def test_one_takes_over_ones_own_lease_and_the_other_window_has_lost_it(hold):
    review_id = hold()
    first_window = claim(review_id)
    second_window = claim(review_id, now=SOON + timedelta(seconds=1))

    with pytest.raises(Conflict) as lost:
        decide(first_window, now=SOON + timedelta(seconds=2))
    assert lost.value.code == "lease_lost"
    decide(second_window, now=SOON + timedelta(seconds=2))


def test_a_sign_of_activity_makes_the_lease_last(hold):
    row = claim(hold())

    extended = extend(row, now=SOON + timedelta(seconds=100))

    assert extended.lease_until == SOON + timedelta(seconds=220)
    assert extended.lease_token == row.lease_token
    assert claim_next("key_ben", now=SOON + timedelta(seconds=219)) is None
    assert claim_next("key_ben", now=SOON + timedelta(seconds=220)) is not None


@pytest.mark.parametrize("act", [extend, release, decide])
def test_once_the_lease_has_run_out_nothing_is_changed(db, hold, endpoint, act):
    endpoint()
    row = claim(hold())
    before = everything(db)

    with pytest.raises(Conflict) as lost:
        act(row, now=SOON + LEASE)

    assert lost.value.code == "lease_lost"
    assert everything(db) == before


@pytest.mark.parametrize("act", [extend, release, decide])
def test_a_lease_that_somebody_else_has_by_now_opens_nothing(db, hold, act):
    row = claim(hold())
    claim_next("key_ben", now=SOON + LEASE)
    before = everything(db)

    with pytest.raises(Conflict):
        act(row, now=SOON + LEASE + timedelta(seconds=1))
    assert everything(db) == before


@pytest.mark.parametrize("act", [extend, release, decide])
def test_a_lease_is_worth_nothing_once_given_back(hold, act):
    row = claim(hold())
    release(row)

    with pytest.raises(Conflict):
        act(row, now=SOON)


def test_what_belongs_to_another_organisation_is_not_there(db, hold):
    review_id = hold()
    row = claim(review_id)
    before = everything(db)

    assert claim_next(organisation_id="org_other") is None
    for act in (extend, release, decide):
        with pytest.raises(NotFound):
            act(row, now=SOON, organisation_id="org_other")
    with pytest.raises(NotFound):
        claim(review_id, organisation_id="org_other")
    with transaction() as session, pytest.raises(NotFound):
        reviews.get(session, organisation_id="org_other", review_id=review_id)
    assert everything(db) == before


# -- decisions


@pytest.mark.parametrize(
    ("verdict", "disposition"),
    [
        (Verdict.GOOD, Disposition.PASS),
        (Verdict.DEFECTIVE, Disposition.REJECT),
        (Verdict.UNDECIDABLE, Disposition.HOLD),
    ],
)
def test_verdict_and_disposition_follow_the_person(db, hold, verdict, disposition):
    review_id = hold()
    row = decide(claim(review_id), Decided(verdict, comment="seen twice"))

    assert row.decided_at == SOON
    inspection = inspection_of(db, review_id)
    assert (inspection.verdict, inspection.disposition) == (verdict, disposition)
    assert inspection.verdict_source is VerdictSource.PERSON
    (decision,) = decisions(db, review_id)
    assert (decision.verdict, decision.comment, decision.reviewer, decision.at) == (
        *(verdict, "seen twice"),
        *("key_anna", SOON),
    )
    review = db.get_one(Review, review_id)
    assert review.decision_id == decision.id
    assert (review.lease_token, review.lease_until, review.claimed_by) == (None, None, None)


def test_a_decision_is_in_the_history_and_in_the_audit_log(db, hold):
    review_id = hold()
    decide(claim(review_id), Decided(Verdict.DEFECTIVE, "broken_large", REGION, "chipped"))

    (decision,) = decisions(db, review_id)
    assert (decision.defect_type, decision.region) == ("broken_large", REGION)
    event = db.scalars(select(InspectionEvent).order_by(InspectionEvent.id.desc())).first()
    assert (event.actor, event.event) == ("key_anna", "decided")
    assert event.detail == {
        "decision": decision.id,
        "verdict": "defective",
        "defect_type": "broken_large",
        "comment": "chipped",
        "supersedes": None,
    }
    entry = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.actor, entry.action, entry.subject) == ("key_anna", "review.decided", review_id)
    assert entry.detail == {
        "inspection": inspection_of(db, review_id).id,
        "decision": decision.id,
        "verdict": "defective",
    }


def test_a_decision_is_announced_in_its_own_transaction(db, hold, endpoint):
    id_ = endpoint(events=[Event.REVIEW_DECIDED])
    review_id = hold()
    row = claim(review_id)
    assert db.scalars(select(WebhookDelivery)).all() == []

    with transaction() as session:
        reviews.decide(
            session,
            organisation_id="org_plant",
            review_id=review_id,
            lease_token=row.lease_token,
            reviewer="key_anna",
            decided=GOOD,
            now=SOON,
        )
        assert len(session.scalars(select(WebhookDelivery)).all()) == 1
        session.rollback()
    assert db.scalars(select(WebhookDelivery)).all() == []

    decide(row)
    (delivery,) = db.scalars(select(WebhookDelivery)).all()
    assert (delivery.endpoint_id, delivery.event) == (id_, Event.REVIEW_DECIDED)
    assert delivery.decision_id == decisions(db, review_id)[0].id


def test_the_filter_of_an_endpoint_sees_the_part_as_it_was_decided(db, hold, endpoint):
    rejected = endpoint(events=[Event.REVIEW_DECIDED], dispositions=[Disposition.REJECT])
    endpoint(events=[Event.REVIEW_DECIDED], dispositions=[Disposition.HOLD])
    endpoint(events=[Event.INSPECTION_COMPLETED], dispositions=[Disposition.REJECT])
    endpoint(events=[Event.REVIEW_DECIDED], lines=["L2"])
    decide(claim(hold(line="L1")), Decided(Verdict.DEFECTIVE))

    told = db.scalars(select(WebhookDelivery.endpoint_id)).all()
    assert told == [rejected]


@pytest.mark.parametrize(
    "verdicts",
    [(Verdict.GOOD,), (Verdict.DEFECTIVE,), (Verdict.DEFECTIVE, Verdict.GOOD)],
)
def test_who_was_told_that_a_part_is_on_hold_hears_what_becomes_of_it(db, hold, endpoint, verdicts):
    """Else a MES that wants to know of parts on hold would keep them for ever."""
    told = endpoint(dispositions=[Disposition.HOLD])
    endpoint(dispositions=[Disposition.HOLD], events=[Event.INSPECTION_COMPLETED])
    review_id = hold()
    for verdict in verdicts:
        decide(claim(review_id), Decided(verdict))

    told_of = db.scalars(select(WebhookDelivery).where(WebhookDelivery.endpoint_id == told)).all()
    heard = [delivery.event for delivery in sorted(told_of, key=lambda one: one.id)]
    assert heard == [Event.INSPECTION_COMPLETED, *[Event.REVIEW_DECIDED] * len(verdicts)]
    others = db.scalars(select(WebhookDelivery.event).where(WebhookDelivery.endpoint_id != told))
    assert set(others) == {Event.INSPECTION_COMPLETED}


def test_who_was_told_long_ago_still_hears_what_becomes_of_the_part(db, hold, endpoint):
    """The log of deliveries is tidied; what it says of a part that waits is needed still."""
    endpoint(dispositions=[Disposition.HOLD])
    review_id = hold()
    with transaction() as session:
        session.execute(
            update(WebhookDelivery).values(
                status=DeliveryStatus.DELIVERED, finished_at=func.now() - timedelta(days=60)
            )
        )
    with transaction() as session:
        deliveries.forget_old(session, days=30)
    decide(claim(review_id), GOOD)

    events = select(WebhookDelivery.event).order_by(WebhookDelivery.id)
    assert db.scalars(events).all() == [Event.INSPECTION_COMPLETED, Event.REVIEW_DECIDED]

    with transaction() as session:
        deliveries.forget_old(session, days=30)
    assert db.scalars(events).all() == [Event.REVIEW_DECIDED]


def test_a_later_decision_supersedes_and_the_first_can_still_be_read(db, hold, endpoint):
    endpoint(events=[Event.REVIEW_DECIDED])
    review_id = hold()
    decide(claim(review_id), GOOD)
    later = SOON + timedelta(hours=1)
    again = claim(review_id, "key_ben", now=later)
    assert again.status(later) is ReviewStatus.DECIDED
    decide(again, Decided(Verdict.DEFECTIVE, "other"), reviewer="key_ben", now=later)

    first, second = decisions(db, review_id)
    assert (first.verdict, first.reviewer) == (Verdict.GOOD, "key_anna")
    assert (second.verdict, second.reviewer) == (Verdict.DEFECTIVE, "key_ben")
    review = db.get_one(Review, review_id)
    assert (review.decision_id, review.decided_at) == (second.id, SOON)
    assert inspection_of(db, review_id).disposition is Disposition.REJECT
    event = db.scalars(select(InspectionEvent).order_by(InspectionEvent.id.desc())).first()
    assert event.detail["supersedes"] == first.id
    told_of = db.scalars(select(WebhookDelivery.decision_id)).all()
    assert sorted(told_of) == sorted([first.id, second.id])


def test_what_is_claimed_to_decide_it_anew_and_left_stays_decided_as_it_was(db, hold):
    review_id = hold()
    decide(claim(review_id), Decided(Verdict.DEFECTIVE))
    claim(review_id, "key_ben")  # ...who goes home

    assert claim_next(now=SOON + timedelta(days=1)) is None
    assert inspection_of(db, review_id).verdict is Verdict.DEFECTIVE


def test_the_database_refuses_to_change_or_remove_a_decision(hold):
    decide(claim(hold()))

    for statement in (
        "UPDATE review_decisions SET verdict = 'defective'",
        "DELETE FROM review_decisions",
    ):
        with pytest.raises(DBAPIError, match="append"), transaction() as session:
            session.execute(text(statement))


@pytest.mark.parametrize(
    ("decided", "field"),
    [
        (Decided(Verdict.GOOD, "broken_large"), "defect_type"),
        (Decided(Verdict.UNDECIDABLE, "other"), "defect_type"),
        (Decided(Verdict.GOOD, region=REGION), "region"),
        (Decided(Verdict.DEFECTIVE, "rust"), "defect_type"),
    ],
)
def test_a_decision_that_does_not_fit_together_changes_nothing(db, hold, decided, field):
    row = claim(hold())
    before = everything(db)

    with pytest.raises(InvalidInput) as refusal:
        decide(row, decided)

    assert refusal.value.field == field
    assert everything(db) == before
    # The lease is still there to decide otherwise.
    decide(row, Decided(Verdict.DEFECTIVE, "other"))


def test_a_defective_part_needs_neither_type_nor_region(db, hold):
    review_id = hold()
    decide(claim(review_id), Decided(Verdict.DEFECTIVE))

    (decision,) = decisions(db, review_id)
    assert (decision.defect_type, decision.region, decision.comment) == (None, None, "")


def test_a_part_whose_inspection_failed_is_decided_like_any_other(db, accept):
    id_ = accept()
    with transaction() as session:
        batch = claiming.claim(session, limit=1, lease=LEASE, worker="worker:a")
        failures = [Failure(id_, "unreadable_image", "cut off")]
        inspections.fail(session, token=batch.token, failures=failures, worker="worker:a")
    row = claim_next(reason=ReviewReason.INSPECTION_FAILED)
    assert row.inspection_id == id_

    decide(row, Decided(Verdict.DEFECTIVE, "broken_large"))

    inspection = inspection_of(db, row.id)
    assert (inspection.status, inspection.error_code) == ("failed", "unreadable_image")
    assert (inspection.verdict, inspection.disposition) == (Verdict.DEFECTIVE, Disposition.REJECT)


# -- lists


def test_a_list_is_read_page_by_page_from_the_oldest(db, hold):
    ids = [hold(priority) for priority in (5, 9, 1)]
    asked = {"organisation_id": "org_plant", "filters": Filters(), "page_size": 2}

    first, token = reviews.page(db, **asked)
    rest, end = reviews.page(db, **asked, page_token=token)

    assert [row.id for row in (*first, *rest)] == ids
    assert end == ""


def test_a_list_by_status_goes_by_who_looks_at_this_moment(db, hold):
    decided, claimed, expired, open_ = (hold() for _ in range(4))
    decide(claim(decided))
    claim(claimed)
    claim(expired, now=SOON.replace(year=2020))

    def listed(status):
        filters = Filters(status=status)
        rows, _ = reviews.page(db, organisation_id="org_plant", filters=filters, page_size=9)
        return [row.id for row in rows]

    assert listed(ReviewStatus.DECIDED) == [decided]
    assert listed(ReviewStatus.CLAIMED) == [claimed]
    assert listed(ReviewStatus.OPEN) == [expired, open_]
    assert listed(None) == [decided, claimed, expired, open_]


def test_what_waits_is_counted_whether_or_not_somebody_looks_at_it(db, hold):
    decided, claimed = hold(line="L1"), hold(line="L1")
    hold(line="L2")
    decide(claim(decided))
    claim(claimed)

    def waiting(**filters):
        return reviews.count_waiting(db, organisation_id="org_plant", filters=Filters(**filters))

    assert (waiting(), waiting(line="L1"), waiting(reason=ReviewReason.LOW_QUALITY)) == (2, 1, 0)


# -- random audits


def set_share(share):
    with transaction() as session:
        products.set_audit_share(
            session, organisation_id="org_plant", name="bottle", share=share, actor="test"
        )


def test_an_audit_holds_its_share_of_what_would_pass_and_opens_reviews(db, accept, monkeypatch):
    set_share(0.25)
    drawn = iter([0.1, 0.9, 0.25, 0.249])
    monkeypatch.setattr("random.random", lambda: next(drawn))
    ids = [accept() for _ in range(4)]
    judge()

    held = db.scalars(select(Review.inspection_id).order_by(Review.id)).all()
    assert sorted(held) == sorted([ids[0], ids[3]])
    for id_ in ids:
        inspection = db.get_one(Inspection, id_)
        assert inspection.verdict is Verdict.GOOD
        expected = Disposition.HOLD if id_ in held else Disposition.PASS
        assert inspection.disposition is expected
        assert inspection.review_reasons == (["random_audit"] if id_ in held else [])


@pytest.mark.parametrize(("share", "held"), [(0.0, 0), (1.0, 3)])
def test_a_share_of_none_and_of_all(db, accept, share, held):
    set_share(share)
    for _ in range(3):
        accept()
    judge()

    assert len(db.scalars(select(Review)).all()) == held


def test_an_audit_takes_nothing_that_is_rejected_and_changes_nothing_that_is_held(db, accept):
    set_share(1.0)
    rejected = accept()
    judge(disposition=Disposition.REJECT)
    held = accept()
    judge(ReviewReason.LOW_QUALITY)

    assert db.get_one(Inspection, rejected).disposition is Disposition.REJECT
    (review,) = db.scalars(select(Review)).all()
    assert (review.inspection_id, review.reasons) == (held, ["low_quality"])


def test_an_audit_is_no_disagreement_of_the_shadow(db, accept, make_manifest):
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id="org_plant",
            manifest=make_manifest(seed=7),
            is_stored=lambda _: True,
            actor="test",
        )
        shadows.start(
            session,
            organisation_id="org_plant",
            name="bottle",
            version=version.version,
            actor="test",
        )
    set_share(1.0)
    accept()
    passes = Outcome(Verdict.GOOD, Disposition.PASS, (), False, False, True)
    judge(shadow=ShadowJudgement.judged(version.id, SCORES, passes))

    (result,) = db.scalars(select(ShadowResult)).all()
    assert (result.active_disposition, result.agrees) == (Disposition.PASS, True)


def test_the_share_is_audited_and_the_same_again_is_not(db, organisation):
    for share in (0.02, 0.02, 0.0):
        set_share(share)

    entries = db.scalars(
        select(AuditEntry).where(AuditEntry.action == "audit_share.changed").order_by(AuditEntry.id)
    ).all()
    assert [entry.detail for entry in entries] == [
        {"before": 0.0, "after": 0.02},
        {"before": 0.02, "after": 0.0},
    ]


def test_decisions_of_many_reviews_come_oldest_first(db, hold):
    ids = [hold(), hold()]
    for minutes in range(3):
        for id_ in ids:
            now = SOON + timedelta(minutes=minutes)
            decide(claim(id_, now=now), Decided(Verdict.GOOD, comment=str(minutes)), now=now)

    found = reviews.decisions_of(db, ids)
    assert [[row.comment for row in found if row.review_id == id_] for id_ in ids] == [
        ["0", "1", "2"]
    ] * 2
