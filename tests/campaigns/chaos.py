"""Photos go in while everything breaks; afterwards each accepted one must have exactly one verdict.

    .venv/bin/python tests/campaigns/chaos.py --photos 10000 --faults 24
    .venv/bin/python tests/campaigns/chaos.py --photos 300 --faults 8 --real

Real processes: PostgreSQL, Redis, an API, two workers, and S3 over HTTP. Without `--real` the
workers have an engine that looks at nothing, so that the volume counts. Clients send every photo
with an Idempotency-Key until it is accepted, as a line controller would. Every kind of fault comes
in turn, in an order drawn from the seed. Two webhook endpoints want to hear of every verdict: each
has to be told of each photo with one delivery, and that has to arrive. The last line is JSON; the
exit code is 1 if anything was lost, doubled or stuck, or if what a killed worker held was not free
`--grace` seconds after its lease, or after there was a worker again.
"""

import argparse
import io
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import redis
from faulty_storage import BUCKET, FaultyStorage, Mood
from PIL import Image
from receiver import receive, start
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import DBAPIError

from deploy.local import LocalStack

HERE = Path(__file__).parent
LEASE_SECONDS = 10
_HOLDERS = text("""
SELECT
  (SELECT array_agg(DISTINCT e.actor) FROM inspections i
   JOIN inspection_events e ON e.inspection_id = i.id
   WHERE i.status = 'running' AND e.event = 'claimed' AND e.id = (
     SELECT max(id) FROM inspection_events WHERE inspection_id = i.id AND event = 'claimed')),
  EXISTS (SELECT FROM workers WHERE seen_at > clock_timestamp() - make_interval(secs => :since)
          AND starts_with(id, 'worker:'))
""")
"""Who has photos in work, and whether any worker has reported within so many seconds."""
_LEFT = text("""
SELECT (SELECT count(*) FROM inspections WHERE status IN ('queued', 'running')),
       (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending')
""")
_PAUSE_SECONDS = 3.0
"""Between two faults: long enough to recover, short enough to meet the backlog of the last one."""
_CLIENTS = 4
_ENDPOINTS = 2
_QUIET_SECONDS = 300
"""In which all photos must be done once the last fault is over."""


@dataclass
class Found:
    """What the campaign saw."""

    accepted: dict[str, str] = field(default_factory=dict)
    """Idempotency-Key to the inspection that the first 202 named."""
    answers: Counter[str] = field(default_factory=Counter)
    """Status codes, and names of connection errors."""
    violations: list[str] = field(default_factory=list)
    faults: list[tuple[float, str]] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds until the first claim after a fault was over, by kind."""
    twice: int = 0
    """Arrivals of what had arrived before, which receivers tell by its id."""
    after_kill: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from kill -9 of workers until nothing was leased to them any more, by kind."""


class Campaign:
    def __init__(
        self, folder: Path, *, seed: int, is_real: bool, rate: float, grace: float
    ) -> None:
        self.storage = FaultyStorage()
        self.random = random.Random(seed)
        self.found = Found()
        self._rate = rate
        self._grace_seconds = grace
        self._folder = folder
        self._is_real = is_real
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._photos = [photo(number) for number in range(12)]
        self.faults: dict[str, Callable[[], None]] = {
            "kill api": lambda: self._kill("api"),
            "kill worker": lambda: self._kill("worker"),
            "kill both workers": lambda: self._kill("worker", "worker-2"),
            "kill deliverer": lambda: self._kill("deliverer"),
            "freeze worker past its lease": lambda: self._freeze("worker-2", LEASE_SECONDS + 4),
            "flush redis": self._flush_redis,
            "kill redis": lambda: self._kill("Redis"),
            "freeze redis": lambda: self._freeze("Redis", 8),
            "restart postgresql at once": lambda: self._kill("PostgreSQL", by=signal.SIGQUIT),
            "storage away": lambda: self._storage_is(Mood.AWAY, 6),
            "storage answers errors": lambda: self._storage_is(Mood.ERRORS, 6),
            "storage slow": lambda: self._storage_is(Mood.SLOW, 8),
            "storage frozen": lambda: self._storage_is(Mood.FROZEN, 14),
        }

    def run(self, photos: int, faults: int, only: list[str] | None = None) -> Found:
        """Send so many photos through so many faults, and look at what became of them."""
        self.storage.start()
        command = [sys.executable, "-m", "worker"]
        if not self._is_real:
            command = [sys.executable, str(HERE / "standin_worker.py")]
        self.stack = LocalStack(
            self._folder,
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings={
                **self.storage.settings,
                "DEFECTSCOPE_LEASE_SECONDS": str(LEASE_SECONDS),
                "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS": "127.0.0.0/8",
            },
            workers=2,
            worker_command=command,
        )
        try:
            self.stack.start()
            threading.Thread(target=self._watch, daemon=True).start()
            self._database = create_engine(self.stack.database_url, pool_pre_ping=True)
            with self._database.connect() as connection:
                self._redis_url = redis_url(self.stack.pid("worker"))
                del connection
            self._make_endpoints()
            guard = threading.Thread(target=self._look_for_overdue)
            guard.start()
            clients = self._start_clients(photos)
            self._break_things(faults, only or list(self.faults))
            for client in clients:
                client.join()
            self._await_quiet()
            self._is_over.set()
            guard.join()
            self._judge()
        finally:
            self._is_over.set()
            self.stack.stop()
            self.storage.stop()
        return self.found

    # -- what goes in

    def _make_endpoints(self) -> None:
        self._receiver, port = start(receive)
        for number in range(_ENDPOINTS):
            made = httpx.post(
                f"{self.stack.url}/v1/webhooks",
                json={"url": f"http://127.0.0.1:{port}/{number}"},
                headers={"X-API-Key": self.stack.admin_key},
            )
            made.raise_for_status()
            self._receiver.send(("secret", made.json()["secret"]))
            self._receiver.recv()

    def _start_clients(self, photos: int) -> list[threading.Thread]:
        numbers = iter(range(photos))
        started = time.monotonic()

        def client() -> None:
            with httpx.Client(
                base_url=self.stack.url,
                headers={"X-API-Key": self.stack.admin_key},
                timeout=30,
            ) as http:
                while True:
                    with self._lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    due = started + number / self._rate
                    time.sleep(max(0.0, due - time.monotonic()))
                    self._submit(http, number)

        threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        return threads

    def _submit(self, http: httpx.Client, number: int) -> None:
        """Until it is accepted; now and then once more, as after a lost answer."""
        key = f"photo-{number}"
        wanted = 2 if number % 10 == 0 else 1
        while wanted:
            try:
                answer = http.post(
                    "/v1/inspections",
                    files={"file": self._photos[number % len(self._photos)]},
                    data={"lot": f"lot-{number % 5}"},
                    headers={"Idempotency-Key": key},
                )
            except httpx.HTTPError as error:
                self._count(type(error).__name__)
                time.sleep(0.3)
                continue
            self._count(str(answer.status_code))
            if answer.status_code in {200, 202}:
                wanted -= 1
                self._accepted(key, answer.json()["id"])
            elif answer.status_code in {429, 503}:
                if "Retry-After" not in answer.headers:
                    self._violated(f"{answer.status_code} without Retry-After: {answer.text}")
                time.sleep(0.5)
            else:
                self._violated(f"a good photo was answered {answer.status_code}: {answer.text}")
                return

    def _accepted(self, key: str, inspection: str) -> None:
        with self._lock:
            first = self.found.accepted.setdefault(key, inspection)
        if first != inspection:
            self._violated(f"{key} was accepted twice: {first}, {inspection}")

    def _count(self, what: str) -> None:
        with self._lock:
            self.found.answers[what] += 1

    def _violated(self, what: str) -> None:
        with self._lock:
            self.found.violations.append(what)

    # -- what breaks

    def _break_things(self, count: int, kinds: list[str]) -> None:
        order: list[str] = []
        while len(order) < count:
            order += self.random.sample(kinds, len(kinds))
        for name in order[:count]:
            time.sleep(_PAUSE_SECONDS)
            self.found.faults.append((time.monotonic(), name))
            print(f"{len(self.found.accepted):6} accepted; {name}", flush=True)
            self.faults[name]()
            self.found.recoveries[name].append(self._until_claimed())

    def _kill(self, *children: str, by: signal.Signals = signal.SIGKILL) -> None:
        killed = {child: self.stack.pid(child) for child in children}
        at = time.monotonic()
        for pid in killed.values():
            os.kill(pid, by)
        for child, pid in killed.items():
            self._await(lambda child=child, pid=pid: self.stack.pid(child) != pid, 30)  # type: ignore[misc]
        if workers := [pid for child, pid in killed.items() if child.startswith("worker")]:
            # Before the next fault, which might be the one that holds them up.
            self._time_release(" and ".join(children), workers, at)

    def _freeze(self, child: str, seconds: float) -> None:
        pid = self.stack.pid(child)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _flush_redis(self) -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            client.flushall()

    def _storage_is(self, mood: Mood, seconds: float) -> None:
        self.storage.become(mood)
        time.sleep(seconds)
        self.storage.become(Mood.GOOD)

    def _watch(self) -> None:
        try:
            self.stack.watch()
        except Exception as error:
            if not self._is_over.is_set():
                self._violated(f"the stack gave up: {error}")

    # -- what is looked at meanwhile

    def _until_claimed(self) -> float:
        """Seconds until something is claimed, from now; 0 if nothing waits."""
        started = time.monotonic()
        with self._connect() as connection:
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            while time.monotonic() < started + 60:
                waits, claimed = connection.execute(
                    text(
                        "SELECT count(*) FILTER (WHERE status = 'queued'),"
                        " count(*) FILTER (WHERE started_at > :now) FROM inspections"
                    ),
                    {"now": now},
                ).one()
                if claimed:
                    return time.monotonic() - started
                if not waits:
                    return 0.0
                time.sleep(0.05)
        self._violated("photos waited for a minute, and nobody claimed any")
        return 60.0

    def _time_release(self, killed: str, pids: list[int], killed_at: float) -> None:
        """How long the photos of a killed worker stayed leased to it."""
        names = tuple(f"-{pid}" for pid in pids)
        # Who sweeps has to be there: the other worker at once, both of them once one is back.
        swept_from = float(LEASE_SECONDS)
        is_anybody_there = False
        with self._connect() as connection:
            while (seconds := time.monotonic() - killed_at) < _QUIET_SECONDS:
                holders, is_seen = connection.execute(_HOLDERS, {"since": seconds}).one()
                if is_seen and not is_anybody_there:
                    is_anybody_there, swept_from = True, max(swept_from, seconds)
                if not any(holder.endswith(names) for holder in holders or ()):
                    break
                time.sleep(0.2)
        most = swept_from + self._grace_seconds
        self.found.after_kill[killed].append(seconds)
        if seconds > most:
            self._violated(
                f"photos of {killed}, killed, were free after {seconds:.1f} s, not {most:.1f} s"
            )

    def _look_for_overdue(self) -> None:
        """Nothing may be leased for long after its lease has run out, while anybody can sweep."""
        while not self._is_over.wait(1):
            try:
                with self._connect() as connection:
                    overdue = connection.execute(
                        text(
                            "SELECT count(*) FROM inspections WHERE status = 'running'"
                            " AND lease_until < clock_timestamp() - interval '30 seconds'"
                        )
                    ).scalar_one()
            except DBAPIError:
                continue
            if overdue:
                self._violated(f"{overdue} photos were leased 30 s after their lease had run out")
                return

    def _connect(self) -> Connection:
        """A connection that reads what is committed now; waits for a restart of PostgreSQL."""
        until = time.monotonic() + 60
        while True:
            try:
                return self._database.connect().execution_options(isolation_level="AUTOCOMMIT")
            except DBAPIError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise SystemExit("the stack did not start a killed child again")
            time.sleep(0.05)

    # -- what must be true afterwards

    def _await_quiet(self) -> None:
        until = time.monotonic() + _QUIET_SECONDS
        with self._connect() as connection:
            while time.monotonic() < until:
                left, untold = connection.execute(_LEFT).one()
                if not left and not untold:
                    return
                time.sleep(0.2)
        self._violated(
            f"{left} photos and {untold} deliveries were waiting after {_QUIET_SECONDS} s of quiet"
        )

    def _judge(self) -> None:
        with self._connect() as connection:
            rows = {
                row.id: row
                for row in connection.execute(
                    text(
                        "SELECT id, status, attempts, overlay_key, anomaly_map_key, error_code"
                        " FROM inspections"
                    )
                )
            }
            events: dict[str, Counter[str]] = defaultdict(Counter)
            for id_, event in connection.execute(
                text("SELECT inspection_id, event FROM inspection_events")
            ):
                events[id_][event] += 1
        self.statuses = Counter(row.status for row in rows.values())
        self.failures = Counter(row.error_code for row in rows.values() if row.error_code)
        self.attempts = Counter(row.attempts for row in rows.values())
        accepted = set(self.found.accepted.values())
        if lost := accepted - rows.keys():
            self._violated(f"lost: {len(lost)} of {len(accepted)} accepted photos have no row")
        if doubled := rows.keys() - accepted:
            self._violated(f"doubled: {len(doubled)} rows that no client was told of")
        objects = self._objects()
        for id_, row in rows.items():
            seen = events[id_]
            ends = sum(seen[end] for end in ("succeeded", "failed", "canceled"))
            if row.status not in {"succeeded", "failed"} or ends != 1 or seen["accepted"] != 1:
                self._violated(f"{id_} is {row.status} with the history {dict(seen)}")
            if (
                seen["claimed"]
                != seen["succeeded"] + seen["given_back"] + seen["lease_expired"] + (seen["failed"])
            ):
                self._violated(f"{id_} was claimed and nothing came of it: {dict(seen)}")
            for key in (row.overlay_key, row.anomaly_map_key):
                if row.status == "succeeded" and key not in objects:
                    self._violated(f"{id_} succeeded, and {key} is not in storage")

        self._judge_deliveries(rows.keys())

    def _judge_deliveries(self, inspections: Iterable[str]) -> None:
        """To each endpoint one delivery of each photo, and each has arrived."""
        with self._connect() as connection:
            deliveries = connection.execute(
                text("SELECT id, endpoint_id, inspection_id, event, status FROM webhook_deliveries")
            ).all()
        self._receiver.send(("seen", None))
        seen, _, unverified = self._receiver.recv()
        self.found.twice = sum(seen.values()) - len(seen)
        told = Counter(row.inspection_id for row in deliveries)
        each = Counter((row.inspection_id, row.endpoint_id) for row in deliveries)
        if wrong := [id_ for id_ in inspections if told[id_] != _ENDPOINTS]:
            self._violated(f"{len(wrong)} photos do not have a delivery for each endpoint: {wrong}")
        if doubled := [whose for whose, count in each.items() if count != 1]:
            self._violated(f"{len(doubled)} photos have several for one endpoint: {doubled}")
        if unsent := [row.id for row in deliveries if row.status != "delivered"]:
            self._violated(f"{len(unsent)} deliveries are not delivered: {unsent}")
        if missing := {row.id for row in deliveries} - seen.keys():
            self._violated(f"{len(missing)} deliveries never arrived: {missing}")
        if unverified:
            self._violated(f"{unverified} arrivals bore no right signature")

    def _objects(self) -> set[str]:
        pages = self.storage.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {entry["Key"] for page in pages for entry in page.get("Contents", ())}


def photo(seed: int) -> bytes:
    """Blobs and noise, 200 x 200: small, so that the volume is in their number."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(60, 200, (10, 10, 3)), np.ones((20, 20, 1)))
    pixels = np.clip(coarse + rng.normal(0, 8, coarse.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def redis_url(pid: int) -> str:
    """From the environment of a child, where its password is."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (url,) = (v.split(b"=", 1)[1] for v in variables if v.startswith(b"DEFECTSCOPE_REDIS_URL="))
    return url.decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--rate", type=float, default=40.0, help="photos a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="only these kinds")
    parser.add_argument(
        "--grace",
        type=float,
        default=5.0,
        help="seconds after its lease until what a killed worker held has to be free",
    )
    parser.add_argument("--real", action="store_true", help="with the real engine")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(
            Path(folder),
            seed=arguments.seed,
            is_real=arguments.real,
            rate=arguments.rate,
            grace=arguments.grace,
        )
        found = campaign.run(arguments.photos, arguments.faults, arguments.only)
    took = time.monotonic() - started
    print(f"{len(found.accepted)} photos accepted, {len(found.faults)} faults, {took:.0f} s")
    print(f"answers: {dict(found.answers)}")
    print(f"webhooks: each photo told to {_ENDPOINTS} endpoints, {found.twice} arrivals twice")
    print(f"end: {dict(campaign.statuses)}, failed for {dict(campaign.failures)}")
    print(f"attempts: {dict(sorted(campaign.attempts.items()))}")
    for name, seconds in sorted(found.recoveries.items()):
        shown = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"{name:32} claimed again after {shown} s")
    for killed, seconds in found.after_kill.items():
        shown = ", ".join(f"{value:.1f}" for value in seconds)
        print(f"photos of {killed}, killed, were free after {shown} s")
    for violation in itertools.islice(found.violations, 20):
        print(f"VIOLATION: {violation}")
    print("0 lost, 0 doubled, 0 stuck" if not found.violations else "NOT all is well")
    print(
        json.dumps(
            {
                "campaign": "chaos",
                "engine": "real" if arguments.real else "stand-in",
                "accepted": len(found.accepted),
                "faults": dict(Counter(name for _, name in found.faults)),
                "answers": dict(found.answers),
                "end": dict(campaign.statuses),
                "attempts": {str(k): v for k, v in sorted(campaign.attempts.items())},
                "first_claim_s": {
                    name: round(max(values), 1) for name, values in found.recoveries.items()
                },
                "arrived_twice": found.twice,
                "after_kill_s": {
                    killed: round(max(values), 1) for killed, values in found.after_kill.items()
                },
                "violations": len(found.violations),
                "seed": arguments.seed,
            }
        )
    )
    sys.exit(1 if found.violations else 0)


if __name__ == "__main__":
    main()
