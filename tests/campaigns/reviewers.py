"""Fifty people at one queue: nothing decided twice by accident, nothing lost.

    .venv/bin/python tests/campaigns/reviewers.py --reviewers 50 --parts 2000

Real PostgreSQL, and reviewers in threads through `shared.reviews` as the API calls it. They think,
pause past their lease and decide all the same, skip, and vanish with a part in their hands; leases
are short. Every decision that was accepted or refused is written down and held against the tables
afterwards. Then the claim alone: beside 100,000 parts that wait and a million decided ones, with
its plan. The last line is JSON; the exit code is 1 if anything is wrong.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from deploy.local import LocalStack
from shared import reviews
from shared.errors import Conflict
from shared.reviews import Decided, Filters
from shared.tables import Inspection, Review, ReviewDecision
from shared.verdicts import Verdict

LEASE = timedelta(seconds=0.4)
_MOST_CLAIM_MS = 20
_VERDICTS = tuple(Verdict)
ORGANISATION = "org_campaign"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reviewers", type=int, default=50)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--waiting", type=int, default=100_000)
    parser.add_argument("--decided", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None, workers=0)
        try:
            stack.start()
            campaign = Campaign(stack.database_url, arguments)
            wrong = campaign.review()
            claims = campaign.claims()
        finally:
            stack.stop()
    if claims["p50_ms"] > _MOST_CLAIM_MS:
        wrong.append(f"a claim takes {claims['p50_ms']} ms")
    for one in wrong:
        print(f"wrong: {one}")
    print(json.dumps({"campaign": "reviewers", "wrong": wrong, **campaign.seen, "claims": claims}))
    sys.exit(1 if wrong else 0)


class Campaign:
    def __init__(self, database_url: str, arguments: argparse.Namespace) -> None:
        from sqlalchemy import create_engine

        self._engine = create_engine(database_url, pool_size=60, max_overflow=10)
        event.listen(self._engine, "connect", _as_one_insists)
        self._arguments = arguments
        self._accepted: Counter[str] = Counter()
        self._noting = threading.Lock()
        self.seen: dict[str, Any] = {}

    def review(self) -> list[str]:
        """Fifty at once until nothing waits; what is wrong with the tables then."""
        self._fill("parts", self._arguments.parts, is_decided=False)
        events: Counter[str] = Counter()
        started = time.monotonic()
        people = [
            threading.Thread(target=self._person, args=(number, events))
            for number in range(self._arguments.reviewers)
        ]
        for person in people:
            person.start()
        for person in people:
            person.join()
        self.seen = {
            "reviewers": len(people),
            "parts": self._arguments.parts,
            "seconds": round(time.monotonic() - started, 1),
            **events,
        }
        print(", ".join(f"{name} {value}" for name, value in self.seen.items()))
        return self._check()

    def _person(self, number: int, events: Counter[str]) -> None:
        rng = random.Random(f"{self._arguments.seed} {number}")
        name = f"key_{number:02}"
        idle = 0
        while idle < 8:
            claimed = self._do(
                lambda session: reviews.claim_next(
                    session,
                    organisation_id=ORGANISATION,
                    reviewer=name,
                    filters=Filters(),
                    lease=LEASE,
                )
            )
            if claimed is None:
                # Leases of those who vanished have yet to run out.
                idle += 1
                time.sleep(LEASE.total_seconds() / 4)
                continue
            idle = 0
            what = rng.random()
            with self._noting:
                events["claimed"] += 1
            if what < 0.05:
                with self._noting:
                    events["vanished"] += 1
                continue
            if what < 0.10:
                self._try(lambda s, c=claimed: self._release(s, c), "skipped", "late", events)
                continue
            # Some look for longer than they have it, and decide all the same.
            time.sleep(LEASE.total_seconds() * (1.5 if what < 0.2 else rng.uniform(0, 0.2)))
            if self._try(
                lambda s, c=claimed: self._decide(s, c, name, rng.choice(_VERDICTS)),
                "decided",
                "refused",
                events,
            ):
                with self._noting:
                    self._accepted[claimed.id] += 1

    def _do(self, work: Callable[[Session], Any]) -> Any:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    def _try(
        self, work: Callable[[Session], None], done: str, late: str, events: Counter[str]
    ) -> bool:
        try:
            self._do(work)
        except Conflict:
            with self._noting:
                events[late] += 1
            return False
        with self._noting:
            events[done] += 1
        return True

    def _release(self, session: Session, claimed: Review) -> None:
        reviews.release(
            session,
            organisation_id=ORGANISATION,
            review_id=claimed.id,
            lease_token=str(claimed.lease_token),
            skip=True,
        )

    def _decide(self, session: Session, claimed: Review, name: str, verdict: Verdict) -> None:
        reviews.decide(
            session,
            organisation_id=ORGANISATION,
            review_id=claimed.id,
            lease_token=str(claimed.lease_token),
            reviewer=name,
            decided=Decided(verdict),
        )

    def _check(self) -> list[str]:
        wrong = []
        with Session(self._engine) as session:
            written = Counter(session.scalars(select(ReviewDecision.review_id)).all())
            undecided = session.scalars(
                select(func.count()).select_from(Review).where(Review.decided_at.is_(None))
            ).one()
            off = session.scalars(
                select(func.count())
                .select_from(Review)
                .join(ReviewDecision, ReviewDecision.id == Review.decision_id)
                .join(Inspection, Inspection.id == Review.inspection_id)
                .where(Inspection.verdict != ReviewDecision.verdict)
            ).one()
        if undecided:
            wrong.append(f"{undecided} were never decided")
        if twice := [id_ for id_, count in written.items() if count > 1]:
            wrong.append(f"{len(twice)} were decided twice")
        if written != self._accepted:
            wrong.append("what reviewers were told is not what is written")
        if off:
            wrong.append(f"{off} inspections do not follow their decision")
        return wrong

    def claims(self) -> dict[str, Any]:
        """A claim at the database, beside many that wait and very many that are decided."""
        self._fill("waiting", self._arguments.waiting, is_decided=False)
        self._fill("decided", self._arguments.decided, is_decided=True)
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))
        statements: list[tuple[str, Any]] = []

        def note(_c: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
            if "FROM reviews" in statement and "LIMIT" in statement:
                statements.append((statement, values))

        event.listen(self._engine, "before_cursor_execute", note)
        times = []
        for number in range(200):
            started = time.perf_counter()
            self._do(
                lambda session, n=number: reviews.claim_next(
                    session,
                    organisation_id=ORGANISATION,
                    reviewer=f"key_{n % 50:02}",
                    filters=Filters(),
                    lease=timedelta(minutes=2),
                )
            )
            times.append((time.perf_counter() - started) * 1000)
        event.remove(self._engine, "before_cursor_execute", note)
        with self._engine.connect() as connection:
            statement, values = statements[-1]
            plan = (
                connection.exec_driver_sql(f"EXPLAIN ANALYZE {statement}", values).scalars().all()
            )
        print("\n".join(plan))
        cuts = statistics.quantiles(times, n=100)
        found = {"p50_ms": round(cuts[49], 2), "p99_ms": round(cuts[98], 2)}
        print(
            f"a claim beside {self._arguments.waiting:,} waiting and "
            f"{self._arguments.decided:,} decided: p50 {found['p50_ms']} ms, p99 "
            f"{found['p99_ms']} ms"
        )
        return found

    def _fill(self, kind: str, count: int, *, is_decided: bool) -> None:
        """Inspections that succeeded and their reviews, made by the database itself."""
        with self._engine.begin() as connection:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(
                text(
                    "INSERT INTO organisations (id, name) VALUES (:org, 'campaign') "
                    "ON CONFLICT DO NOTHING"
                ),
                {"org": ORGANISATION},
            )
            values = {"org": ORGANISATION, "kind": kind, "count": count}
            connection.execute(
                text(
                    "INSERT INTO inspections (id, organisation_id, product_id, model_version_id, "
                    "image_key, image_sha256, image_bytes, media_type, width, height, status, "
                    "priority, verdict, disposition, verdict_source, review_reasons, overlay_key, "
                    "anomaly_map_key, finished_at) "
                    "SELECT 'insp_' || :kind || lpad(n::text, 8, '0'), :org, products.id, "
                    "products.active_version_id, 'k', 's', 1, 'image/png', 900, 900, 'succeeded', "
                    "n % 10, 'good', 'hold', 'model', '{near_threshold}', 'o', 'a', now() "
                    "FROM products, generate_series(1, :count) AS n"
                ),
                values,
            )
            connection.execute(
                text(
                    "INSERT INTO reviews (id, organisation_id, inspection_id, reasons, priority, "
                    "is_on_line) SELECT 'rev_' || :kind || lpad(n::text, 8, '0'), :org, 'insp_' "
                    "|| :kind || lpad(n::text, 8, '0'), '{near_threshold}', n % 10, n % 2 = 0 "
                    "FROM generate_series(1, :count) AS n"
                ),
                values,
            )
            if is_decided:
                connection.execute(
                    text(
                        "INSERT INTO review_decisions (id, review_id, organisation_id, reviewer, "
                        "verdict) SELECT 'dec' || substr(id, 4), id, organisation_id, 'key_00', "
                        "'good' FROM reviews WHERE id LIKE 'rev_' || :kind || '%'"
                    ),
                    values,
                )
                connection.execute(
                    text(
                        "UPDATE reviews SET decided_at = now(), decision_id = 'dec' || "
                        "substr(id, 4) WHERE id LIKE 'rev_' || :kind || '%'"
                    ),
                    values,
                )


def _as_one_insists(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 0")
    connection.commit()


if __name__ == "__main__":
    main()
