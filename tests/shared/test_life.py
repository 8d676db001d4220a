"""The life of inspections as a state machine, over real PostgreSQL.

    pytest tests/shared/test_life.py                                   a short walk, in the suite
    pytest tests/shared/test_life.py --hypothesis-profile campaign     5,000 steps

A plain model in this file says what should be; after each step the rows have to say the same.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from shared import accepting, inspections
from shared.db import transaction
from shared.errors import Conflict
from shared.inspections import Failure, Recorded
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict

LEASE = timedelta(seconds=30)
MAX_ATTEMPTS = 3
ORGANISATION = "org_plant"
TIMINGS = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1.0)
TERMINAL = {"succeeded", "failed", "canceled"}


@dataclass
class Photo:
    """What should be true of one inspection."""

    status: str = "queued"
    token: str | None = None
    until: datetime | None = None
    attempts: int = 0
    events: Counter[str] = field(default_factory=lambda: Counter({"accepted": 1}))
    has_review: bool = False


class Life(RuleBasedStateMachine):
    batches = Bundle("batches")

    def __init__(self):
        super().__init__()
        # Later than any row's own clock, which the database sets.
        self.now = datetime.now(UTC) + timedelta(days=1)
        self.photos: dict[str, Photo] = {}

    @initialize()
    def begin(self):
        self.submit_some()

    @rule()
    def submit_some(self):
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

    @rule(target=batches, limit=st.integers(1, 4))
    def claim(self, limit):
        with transaction() as session:
            batch = inspections.claim(
                session, limit=limit, lease=LEASE, worker="worker:1", now=self.now
            )
        waiting = [id_ for id_, photo in self.photos.items() if photo.status == "queued"]
        if batch is None:
            assert not waiting
            return multiple()
        ids = [claimed.id for claimed in batch.inspections]
        assert 0 < len(ids) <= limit
        assert set(ids) <= set(waiting)
        for id_ in ids:
            photo = self.photos[id_]
            photo.status, photo.token, photo.until = "running", batch.token, self.now + LEASE
            photo.attempts += 1
            photo.events["claimed"] += 1
        return (batch.token, tuple(ids))

    @rule(batch=batches, what=st.sampled_from(["record", "hold", "fail", "give_back", "extend"]))
    def finish(self, batch, what):
        """The worker is done, in time or late, once or again."""
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
            self.end(id_, "succeeded", has_review=is_held)

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
            self.end(id_, "failed", has_review=True)

    def give_back(self, batch, *, spend_attempt):
        token, ids = batch
        with transaction() as session:
            inspections.give_back(
                session,
                token=token,
                ids=ids,
                worker="worker:1",
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
            inspections.extend(session, [token], lease=LEASE, now=self.now)
        for id_ in self.ours(token, ids):
            self.photos[id_].until = self.now + LEASE

    @rule(seconds=st.sampled_from([5, 31]))
    def time_passes_and_somebody_sweeps(self, seconds):
        """After 31 s all that is running was held by somebody who did not come back in time."""
        self.now += timedelta(seconds=seconds)
        with transaction() as session:
            inspections.sweep(session, max_attempts=MAX_ATTEMPTS, now=self.now)
        for id_, photo in self.photos.items():
            if photo.status != "running" or photo.until >= self.now:
                continue
            if photo.attempts >= MAX_ATTEMPTS:
                self.end(id_, "failed", has_review=True)
            else:
                photo.status, photo.token, photo.until = "queued", None, None
                photo.events["lease_expired"] += 1

    @rule(data=st.data())
    def cancel(self, data):
        if not self.photos:
            return
        id_ = data.draw(st.sampled_from(sorted(self.photos)))
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

    @invariant()
    def rows_say_what_the_model_says(self):
        with transaction() as session:
            rows = session.execute(
                text(
                    "SELECT i.id, i.status, i.lease_token, i.lease_until, i.attempts,"
                    " (SELECT count(*) FROM reviews WHERE inspection_id = i.id) AS reviews"
                    " FROM inspections i"
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
            assert row.reviews == int(photo.has_review)
            assert events[row.id] == photo.events
            assert sum(photo.events[end] for end in TERMINAL) == int(photo.status in TERMINAL)

    def ours(self, token, ids):
        return frozenset(id_ for id_ in ids if self.photos[id_].token == token)

    def end(self, id_, status, *, has_review=False):
        photo = self.photos[id_]
        photo.status, photo.token, photo.until = status, None, None
        photo.events[status] += 1
        photo.has_review = has_review

    def teardown(self):
        with transaction() as session:
            session.execute(text("TRUNCATE inspections CASCADE"))


def test_whatever_happens_rows_and_model_agree(organisation, request):
    name = request.config.getoption("--hypothesis-profile") or "suite"

    run_state_machine_as_test(Life, settings=settings.get_profile(name))
