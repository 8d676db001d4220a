"""The life of inspections and of their reviews as a state machine, over real PostgreSQL.

    pytest tests/shared/test_life.py                                   a short walk, in the suite
    pytest tests/shared/test_life.py --hypothesis-profile campaign     5,000 steps

A plain model in this file says what should be; after each step the rows have to say the same.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from shared import accepting, claiming, inspections, reviews
from shared.db import transaction
from shared.errors import Conflict
from shared.inspections import Failure, Recorded
from shared.reviews import Decided, Filters
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict

LEASE = timedelta(seconds=30)
REVIEW_LEASE = timedelta(seconds=10)
REVIEWERS = ("key_anna", "key_ben")
DISPOSITIONS = {"good": "pass", "defective": "reject", "undecidable": "hold"}
MAX_ATTEMPTS = 3
ORGANISATION = "org_plant"
TIMINGS = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1.0)
STEPS = (
    *("submit_some", "cancel", "time_passes_and_somebody_sweeps", "claim", "claim"),
    *("finish", "finish", "finish"),
    *("look_at_the_next", "look_at_a_certain_one", "look_at_a_certain_one"),
    *("end_a_look", "end_a_look", "end_a_look"),
)
"""Each as often as it stands here. As rules of their own Hypothesis leaves some out of most walks,
and of a thousand steps two were decisions."""
_LATELY = (1, 1, 1, 2, 3, 4)
"""Counted from the end, the batch or the look that a step takes: the last, or one long over."""
TERMINAL = {"succeeded", "failed", "canceled"}


@dataclass
class Looked:
    """What should be true of one review."""

    token: str | None = None
    until: datetime | None = None
    by: str | None = None
    skipped_by: list[str] = field(default_factory=list)
    decisions: list[tuple[str, str]] = field(default_factory=list)
    """Reviewer and verdict, oldest first."""

    def is_held(self, now: datetime) -> bool:
        return self.until is not None and self.until > now


@dataclass
class Photo:
    """What should be true of one inspection."""

    status: str = "queued"
    token: str | None = None
    until: datetime | None = None
    attempts: int = 0
    events: Counter[str] = field(default_factory=lambda: Counter({"accepted": 1}))
    verdict: str | None = None
    disposition: str | None = None
    review: Looked | None = None


class Life(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()
    """What all walks together came across."""

    def __init__(self):
        super().__init__()
        # Later than any row's own clock, which the database sets.
        self.now = datetime.now(UTC) + timedelta(days=1)
        self.photos: dict[str, Photo] = {}
        self.batches: list[tuple[str, tuple[str, ...]]] = []
        """Lease token and ids of each claim."""
        self.looks: list[tuple[str, str, str]] = []
        """Inspection, reviewer and lease token of each look at a part."""

    @initialize()
    def begin(self):
        """A part that is decided, one that somebody has skipped, one that nobody has looked at, a
        photo that is being judged, photos in the queue.
        """
        self.submit_some()
        self.submit_some()
        self.claim_some(3)
        self.record(self.batches[-1], is_held=True)
        for id_, what in zip(self.batches[-1][1], ("good", "skip"), strict=False):
            self.look_at(id_, REVIEWERS[0])
            self.end_look(self.looks[-1], what)
        self.claim_some(1)

    @rule(step=st.sampled_from(STEPS), data=st.data())
    def step(self, step, data):
        self.seen["steps"] += 1
        getattr(self, step)(data.draw)

    def submit_some(self, _=None):
        for number in range(3):
            self.submit(priority=5 + number % 2, station=f"cam{number % 2}")

    def submit(self, priority, station):
        id_ = accepting.new_inspection_id()
        image = accepting.StoredImage(f"images/{id_}.png", "00" * 32, 1, "image/png", 900, 900)
        part = accepting.Part(station=station)
        with transaction() as session:
            accepting.accept(
                session,
                organisation_id=ORGANISATION,
                product="bottle",
                photo=accepting.Submitted(id_, image, part, priority),
                actor="key_1",
            )
        self.photos[id_] = Photo()

    def claim(self, draw):
        self.claim_some(draw(st.integers(1, 4)))

    def claim_some(self, limit):
        with transaction() as session:
            batch = claiming.claim(
                session, limit=limit, lease=LEASE, worker="worker:1", now=self.now
            )
        waiting = [id_ for id_, photo in self.photos.items() if photo.status == "queued"]
        if batch is None:
            assert not waiting
            return
        ids = [claimed.id for claimed in batch.inspections]
        assert 0 < len(ids) <= limit
        assert set(ids) <= set(waiting)
        for id_ in ids:
            photo = self.photos[id_]
            photo.status, photo.token, photo.until = "running", batch.token, self.now + LEASE
            photo.attempts += 1
            photo.events["claimed"] += 1
        self.batches.append((batch.token, tuple(ids)))

    def finish(self, draw):
        """The worker is done, in time or late, once or again."""
        if not self.batches:
            return
        batch = self.one_of_late(self.batches, draw)
        what = draw(st.sampled_from(["hold", "record", "fail", "give_back", "extend"]))
        is_ours = "in time" if self.ours(*batch) else "too late"
        self.seen[f"{what} {is_ours}"] += 1
        match what:
            case "record" | "hold":
                self.record(batch, is_held=what == "hold")
            case "fail":
                self.fail(batch)
            case "give_back":
                self.give_back(batch, spend_attempt=len(self.photos) % 2 == 0)
            case "extend":
                self.extend(batch)

    def record(self, batch, is_held):
        token, ids = batch
        reasons = (ReviewReason.NEAR_THRESHOLD,) if is_held else ()
        disposition = Disposition.HOLD if is_held else Disposition.PASS
        outcome = Outcome(Verdict.GOOD, disposition, reasons, False, False, True)
        scores = Scores(0.1, 0.002, 1.0, 20.0, ())
        results = [Recorded(id_, scores, outcome, "e", "o", "a", [], TIMINGS) for id_ in ids]
        with transaction() as session:
            written = inspections.record(
                session, token=token, results=results, worker="worker:1", now=self.now
            )
        assert written == self.ours(token, ids)
        for id_ in written:
            self.end(id_, "succeeded", verdict="good", disposition=disposition, is_held=is_held)

    def fail(self, batch):
        token, ids = batch
        with transaction() as session:
            failed = inspections.fail(
                session,
                token=token,
                failures=[Failure(id_, "unreadable_image", "broken") for id_ in ids[:1]],
                worker="worker:1",
                now=self.now,
            )
        assert failed == self.ours(token, ids[:1])
        for id_ in failed:
            self.end(id_, "failed", disposition="hold", is_held=True)

    def give_back(self, batch, *, spend_attempt):
        token, ids = batch
        with transaction() as session:
            inspections.give_back(
                session,
                token=token,
                ids=ids,
                worker="worker:1",
                code="storage_unavailable",
                why="storage away",
                spend_attempt=spend_attempt,
                now=self.now,
            )
        for id_ in self.ours(token, ids):
            photo = self.photos[id_]
            photo.status, photo.token, photo.until = "queued", None, None
            photo.attempts -= 0 if spend_attempt else 1
            photo.events["given_back"] += 1

    def extend(self, batch):
        token, ids = batch
        with transaction() as session:
            claiming.extend(session, [token], lease=LEASE, now=self.now)
        for id_ in self.ours(token, ids):
            self.photos[id_].until = self.now + LEASE

    def time_passes_and_somebody_sweeps(self, draw):
        """After 31 s all that is running was held by somebody who did not come back in time."""
        self.now += timedelta(seconds=draw(st.sampled_from([10, 31])))
        with transaction() as session:
            inspections.sweep(session, max_attempts=MAX_ATTEMPTS, now=self.now)
        for id_, photo in self.photos.items():
            if photo.status != "running" or photo.until >= self.now:
                continue
            if photo.attempts >= MAX_ATTEMPTS:
                self.end(id_, "failed", disposition="hold", is_held=True)
            else:
                photo.status, photo.token, photo.until = "queued", None, None
                photo.events["lease_expired"] += 1

    def cancel(self, draw):
        id_ = draw(st.sampled_from(sorted(self.photos)))
        photo = self.photos[id_]

        def cancel():
            with transaction() as session:
                inspections.cancel(
                    session, organisation_id=ORGANISATION, inspection_id=id_, actor="key_1"
                )

        if photo.status in {"succeeded", "failed"}:
            with pytest.raises(Conflict):
                cancel()
            return
        cancel()
        if photo.status != "canceled":
            self.end(id_, "canceled")

    # -- people

    def look_at_the_next(self, draw):
        reviewer = draw(st.sampled_from(REVIEWERS))
        with transaction() as session:
            row = reviews.claim_next(
                session,
                organisation_id=ORGANISATION,
                reviewer=reviewer,
                filters=Filters(),
                lease=REVIEW_LEASE,
                now=self.now,
            )
        waiting = {
            id_: photo.review
            for id_, photo in self.photos.items()
            if photo.review and not photo.review.decisions and not photo.review.is_held(self.now)
        }
        if row is None:
            assert not waiting
            return
        assert row.inspection_id in waiting
        # What this reviewer skipped comes only when nothing else waits.
        if reviewer in waiting[row.inspection_id].skipped_by:
            assert all(reviewer in review.skipped_by for review in waiting.values())
        elif any(reviewer in review.skipped_by for review in waiting.values()):
            self.seen["what was skipped stands behind"] += 1
        self.leased(row, reviewer)

    def look_at_a_certain_one(self, draw):
        """Also at one that is decided, to decide it anew."""
        held = sorted(id_ for id_, photo in self.photos.items() if photo.review)
        if not held:
            return
        decided = [id_ for id_ in held if self.photos[id_].review.decisions]
        among = decided if decided and draw(st.booleans()) else held
        self.look_at(draw(st.sampled_from(among)), draw(st.sampled_from(REVIEWERS)))

    def look_at(self, id_, reviewer):
        review = self.photos[id_].review

        def claim():
            with transaction() as session:
                return reviews.claim(
                    session,
                    organisation_id=ORGANISATION,
                    review_id=self.review_id(session, id_),
                    reviewer=reviewer,
                    lease=REVIEW_LEASE,
                    now=self.now,
                )

        if review.is_held(self.now) and review.by != reviewer:
            with pytest.raises(Conflict):
                claim()
            self.seen["held by another"] += 1
            return
        self.leased(claim(), reviewer)

    def leased(self, row, reviewer):
        review = self.photos[row.inspection_id].review
        review.token, review.by = row.lease_token, reviewer
        review.until = self.now + REVIEW_LEASE
        self.looks.append((row.inspection_id, reviewer, row.lease_token))

    def end_a_look(self, draw):
        """In time or late, once or again; without the lease nothing may change."""
        if not self.looks:
            return
        look = self.one_of_late(self.looks, draw)
        what = draw(st.sampled_from([*DISPOSITIONS, "skip", "skip", "skip", "leave", "go_on"]))
        self.end_look(look, what)

    def end_look(self, look, what):
        id_, reviewer, token = look
        photo = self.photos[id_]
        review = photo.review

        def act():
            with transaction() as session:
                whose = {
                    "organisation_id": ORGANISATION,
                    "review_id": self.review_id(session, id_),
                    "lease_token": token,
                    "now": self.now,
                }
                if what == "go_on":
                    reviews.extend(session, lease=REVIEW_LEASE, **whose)
                elif what in {"skip", "leave"}:
                    reviews.release(session, skip=what == "skip", **whose)
                else:
                    decided = Decided(Verdict(what))
                    reviews.decide(session, reviewer=reviewer, decided=decided, **whose)

        if review.token != token or not review.is_held(self.now):
            with pytest.raises(Conflict):
                act()
            self.seen["lease run out" if review.token == token else "lease lost"] += 1
            return
        act()
        if what == "go_on":
            review.until = self.now + REVIEW_LEASE
            return
        review.token = review.until = review.by = None
        if what == "skip" and reviewer not in review.skipped_by:
            review.skipped_by.append(reviewer)
        if what in DISPOSITIONS:
            self.seen["decided anew" if review.decisions else "decided"] += 1
            review.decisions.append((reviewer, what))
            photo.verdict, photo.disposition = what, DISPOSITIONS[what]
            photo.events["decided"] += 1

    def review_id(self, session, inspection_id):
        return session.execute(
            text("SELECT id FROM reviews WHERE inspection_id = :id"), {"id": inspection_id}
        ).scalar_one()

    # -- what is true after each step

    @invariant()
    def rows_say_what_the_model_says(self):
        with transaction() as session:
            rows = session.execute(
                text(
                    "SELECT i.id, i.status, i.lease_token, i.lease_until, i.attempts,"
                    " i.verdict, i.disposition, i.verdict_source FROM inspections i"
                )
            ).all()
            events: dict[str, Counter[str]] = {}
            for id_, event in session.execute(
                text("SELECT inspection_id, event FROM inspection_events")
            ):
                events.setdefault(id_, Counter())[event] += 1
        assert {row.id for row in rows} == self.photos.keys()
        for row in rows:
            photo = self.photos[row.id]
            assert (row.status, row.lease_token, row.lease_until, row.attempts) == (
                *(photo.status, photo.token, photo.until, photo.attempts),
            )
            assert (row.verdict, row.disposition) == (photo.verdict, photo.disposition)
            is_decided = photo.review is not None and bool(photo.review.decisions)
            assert (row.verdict_source == "person") == is_decided
            assert events[row.id] == photo.events
            assert sum(photo.events[end] for end in TERMINAL) == int(photo.status in TERMINAL)

    @invariant()
    def reviews_say_what_the_model_says(self):
        with transaction() as session:
            rows = session.execute(
                text(
                    "SELECT inspection_id, lease_token, lease_until, claimed_by, skipped_by,"
                    " decision_id, (SELECT array_agg(d.reviewer || ' ' || d.verdict ORDER BY d.at,"
                    " d.id) FROM review_decisions d WHERE d.review_id = r.id) AS decisions,"
                    " (SELECT d.id FROM review_decisions d WHERE d.review_id = r.id"
                    " ORDER BY d.at DESC, d.id DESC LIMIT 1) AS last FROM reviews r"
                )
            ).all()
        wanted = {id_: photo.review for id_, photo in self.photos.items() if photo.review}
        assert sorted(row.inspection_id for row in rows) == sorted(wanted)
        for row in rows:
            review = wanted[row.inspection_id]
            assert (row.lease_token, row.lease_until, row.claimed_by, row.skipped_by) == (
                *(review.token, review.until, review.by, review.skipped_by),
            )
            # Not one decision more than was accepted, and the last one is in force.
            assert (row.decisions or []) == [" ".join(one) for one in review.decisions]
            assert row.decision_id == row.last

    def one_of_late(self, things, draw):
        return things[-min(draw(st.sampled_from(_LATELY)), len(things))]

    def ours(self, token, ids):
        return frozenset(id_ for id_ in ids if self.photos[id_].token == token)

    def end(self, id_, status, *, verdict=None, disposition=None, is_held=False):
        photo = self.photos[id_]
        photo.status, photo.token, photo.until = status, None, None
        photo.events[status] += 1
        photo.verdict, photo.disposition = verdict, disposition
        photo.review = Looked() if is_held else None

    def teardown(self):
        with transaction() as session:
            session.execute(text("TRUNCATE inspections CASCADE"))


def test_whatever_happens_rows_and_model_agree(organisation, request):
    name = request.config.getoption("--hypothesis-profile") or "suite"

    Life.seen.clear()
    run_state_machine_as_test(Life, settings=settings.get_profile(name))

    print(dict(Life.seen))  # noqa: T201 - shown with -s, for whoever wants the figures
    # Walks that come across nothing prove nothing.
    assert Life.seen.keys() >= {
        *("hold in time", "hold too late", "record in time", "record too late"),
        *("fail in time", "fail too late", "give_back in time", "extend in time"),
        *("decided", "decided anew", "lease run out", "lease lost"),
        *("held by another", "what was skipped stands behind"),
    }
