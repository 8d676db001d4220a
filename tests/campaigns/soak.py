"""An hour of ordinary work: does anything grow that should not?

    .venv/bin/python tests/campaigns/soak.py --minutes 60

Real processes with the real engine. Its capacity is measured first; then one stream of photos comes
at 70 % of that, callers poll and wait, and every verdict is told to one webhook endpoint. Every ten
seconds memory, open files, connections, queue and the time from submission to verdict are written
down. Slopes of memory are a line through what came after the warm-up, with its standard error: over
minutes they say nothing. The last line is JSON; the exit code is 1 if a verdict or a delivery was
lost, a process ended, verdicts came later at the end than at the beginning, or memory grew by more
than 60 MB in the hour.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import psutil
import redis
from chaos import redis_url
from receiver import receive
from sqlalchemy import create_engine, text

from deploy.local import LocalStack
from worker.train.render import render_bottle

_SAMPLE_SECONDS = 10.0
_LONGEST_WARM_UP_SECONDS = 600.0
_CAPACITY_PHOTOS = 150
_CLIENTS = 16
_POLLERS = 4
_QUIET_SECONDS = 120.0
_MOST_GROWTH = 1.5
"""Of the p95 from the first to the last third after the warm-up."""
_MOST_MB_PER_HOUR = 60.0
"""Of one process with its children; judged where an hour or more was looked at."""
_LEAST_GROWTH_MS = 50.0
"""Less than this is the noise of a machine on which something else runs now and then."""
_CHILDREN = ("api", "worker", "deliverer", "Redis", "PostgreSQL")


@dataclass(frozen=True)
class Sample:
    at: float
    """Seconds since the stream began."""
    memory_mb: dict[str, float]
    """Of each process with its children: resident, of PostgreSQL private, because its processes
    share most of what is resident."""
    open_files: dict[str, int]
    postgresql_connections: int
    redis_clients: int
    queued: int
    p50_ms: float
    p95_ms: float
    """From submission to verdict, of what was judged since the last sample."""
    elsewhere: float
    """Processors that were busy with what is not ours, since the last sample: whoever shares the
    machine makes verdicts late."""


class Campaign:
    def __init__(self, stack: LocalStack) -> None:
        self.violations: list[str] = []
        self.samples: list[Sample] = []
        self.accepted: list[str] = []
        self.answers: Counter[str] = Counter()
        self._stack = stack
        self._photos = bottles(16)
        self._http = httpx.Client(
            base_url=stack.url,
            headers={"X-API-Key": stack.admin_key},
            timeout=30,
            limits=httpx.Limits(max_connections=_CLIENTS + _POLLERS),
        )
        self._database = create_engine(
            stack.database_url, pool_size=1, isolation_level="AUTOCOMMIT"
        )
        self._redis = redis.Redis.from_url(redis_url(stack.pid("worker")))
        self._processes = {name: psutil.Process(stack.pid(name)) for name in _CHILDREN}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._receiver, theirs = multiprocessing.Pipe()
        self._receiving = multiprocessing.get_context("spawn").Process(
            target=receive, args=(theirs,), daemon=True
        )
        self._receiving.start()
        hook = {"url": f"http://127.0.0.1:{self._receiver.recv()}/"}
        answer = self._http.post("/v1/webhooks", json=hook)
        answer.raise_for_status()
        self._ask("secret", answer.json()["secret"])

    def capacity(self) -> float:
        """Photos a second, submitted as fast as they are taken, until the last verdict."""
        for count in (_CAPACITY_PHOTOS // 3, _CAPACITY_PHOTOS):  # the first warms
            started = time.monotonic()
            with ThreadPoolExecutor(_CLIENTS) as pool:
                list(pool.map(self._submit, range(count)))
            self._await_quiet()
            took = time.monotonic() - started
        return count / took

    def run(self, *, seconds: float, rate: float) -> None:
        """Stream at `rate` photos a second, poll, sample; then wait for what is left."""
        self._began, self._judged_until = time.monotonic(), datetime.now(UTC)
        self._busy_elsewhere = self._elsewhere()
        others = [threading.Thread(target=self._poll, args=(n,)) for n in range(_POLLERS)]
        others.append(threading.Thread(target=self._watch))
        for thread in others:
            thread.start()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            for number in itertools.count():
                due = self._began + number / rate
                if due > self._began + seconds or self._is_over.is_set():
                    break
                time.sleep(max(0.0, due - time.monotonic()))
                pool.submit(self._submit, number)
        self._is_over.set()
        for thread in others:
            thread.join()
        self._await_quiet()

    def judge(self, warm_up_seconds: float) -> dict[str, Any]:
        """What was lost, and what grew."""
        with self._database.connect() as connection:
            rows = connection.execute(
                text("SELECT id, status FROM inspections WHERE finished_at IS NOT NULL")
            )
            ends: dict[str, str] = {row.id: row.status for row in rows}
        seen, arrived, unverified = self._ask("seen")
        self._receiving.terminate()
        lost = set(self.accepted) - ends.keys()
        untold = set(self.accepted) - arrived.keys()
        failed = [id_ for id_, status in ends.items() if status != "succeeded"]
        for what, count in (
            ("accepted photos without an end", len(lost)),
            ("verdicts that were not told", len(untold)),
            ("deliveries that were not verified", unverified),
            ("photos that failed", len(failed)),
        ):
            if count:
                self.violations.append(f"{count} {what}")
        late = [sample for sample in self.samples if sample.at >= warm_up_seconds]
        found: dict[str, Any] = {
            "accepted": len(self.accepted),
            "lost": len(lost),
            "untold": len(untold),
            "told_twice": sum(seen.values()) - len(seen),
            "answers": dict(self.answers),
        }
        if len(late) < 3:
            self.violations.append("too short: fewer than three samples after the warm-up")
            return found
        third = len(late) // 3
        first, last = (
            statistics.median(sample.p95_ms for sample in some)
            for some in (late[:third], late[-third:])
        )
        if last > _MOST_GROWTH * first and last - first > _LEAST_GROWTH_MS:
            self.violations.append(f"p95 grew from {first:.0f} to {last:.0f} ms")
        slopes = {
            name: slope([(sample.at, sample.memory_mb[name]) for sample in late])
            for name in _CHILDREN
        }
        if self.samples[-1].at > 3500:
            for name, line in slopes.items():
                if line["slope"] - 2 * line["error"] > _MOST_MB_PER_HOUR:
                    self.violations.append(f"{name} grew by {line['slope']} MB an hour")
        return found | {
            "p50_ms": round(statistics.median(sample.p50_ms for sample in late)),
            "p95_ms": {"first_third": round(first), "last_third": round(last)},
            "mb_per_hour": slopes,
            "mb": {name: round(late[-1].memory_mb[name]) for name in _CHILDREN},
            "most_open_files": {
                name: max(sample.open_files[name] for sample in self.samples) for name in _CHILDREN
            },
            "most_postgresql_connections": max(s.postgresql_connections for s in self.samples),
            "most_redis_clients": max(s.redis_clients for s in self.samples),
            "most_queued": max(s.queued for s in self.samples),
            "processors_busy_elsewhere": round(statistics.mean(s.elsewhere for s in late), 2),
        }

    # -- what goes on meanwhile

    def _submit(self, number: int) -> None:
        """Until it is accepted. The moment travels along, to be held against the verdict's."""
        at = datetime.now(UTC).isoformat()
        key = f"{number}-{at}"
        while True:
            try:
                answer = self._http.post(
                    "/v1/inspections",
                    files={"file": self._photos[number % len(self._photos)]},
                    data={"station": "cam1", "captured_at": at},
                    headers={"Idempotency-Key": key},
                )
            except httpx.HTTPError as error:
                self._count(type(error).__name__)
                time.sleep(1)
                continue
            self._count(str(answer.status_code))
            if answer.status_code in {200, 202}:
                with self._lock:
                    self.accepted.append(answer.json()["id"])
                return
            if answer.status_code not in {429, 503}:
                self.violations.append(f"a good photo: {answer.status_code} {answer.text}")
                return
            time.sleep(float(answer.headers["Retry-After"]))

    def _poll(self, number: int) -> None:
        """Wait for the newest photo, look at its overlay, and now and then at a list."""
        for turn in itertools.count(number):
            if self._is_over.wait(0.5):
                return
            with self._lock:
                newest = self.accepted[-1] if self.accepted else None
            paths = [f"/v1/inspections/{newest}?wait=10", f"/v1/inspections/{newest}/overlay"]
            if turn % 10 == 0:
                paths = ["/v1/inspections?station=cam1", "/readyz"]
            for path in paths if newest else ():
                try:
                    status = self._http.get(path).status_code
                except httpx.HTTPError as error:
                    self._count(type(error).__name__)
                    continue
                if status >= 500:
                    self.violations.append(f"{path}: {status}")

    def _watch(self) -> None:
        for turn in itertools.count(1):
            if self._is_over.wait(
                max(0.0, self._began + turn * _SAMPLE_SECONDS - time.monotonic())
            ):
                return
            ended = [name for name, process in self._processes.items() if has_ended(process)]
            if ended:
                self.violations.append(f"ended: {', '.join(ended)}")
                self._is_over.set()
                return
            sample = self._sample()
            self.samples.append(sample)
            memory = ", ".join(f"{name} {mb:.0f}" for name, mb in sample.memory_mb.items())
            print(
                f"{sample.at:6.0f} s  p50 {sample.p50_ms:5.0f} ms  p95 {sample.p95_ms:5.0f} ms  "
                f"{sample.queued:4} queued  {sample.postgresql_connections:3} connections  "
                f"{sample.redis_clients:3} clients  {sample.elsewhere:.1f} processors busy "
                f"elsewhere  MB: {memory}",
                flush=True,
            )

    def _sample(self) -> Sample:
        memory, files = {}, {}
        for name, process in self._processes.items():
            memory[name], files[name] = memory_and_files(process, is_shared=name == "PostgreSQL")
        with self._database.connect() as connection:
            now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
            took = connection.execute(
                text(
                    "SELECT extract(epoch FROM finished_at - captured_at) * 1000 FROM inspections"
                    " WHERE finished_at > :since AND finished_at <= :now"
                ),
                {"since": self._judged_until, "now": now},
            ).scalars()
            latencies = [float(ms) for ms in took] or [0.0, 0.0]
            self._judged_until = now
            connections, queued = connection.execute(
                text(
                    "SELECT (SELECT count(*) FROM pg_stat_activity"
                    " WHERE backend_type = 'client backend'),"
                    " (SELECT count(*) FROM inspections WHERE status = 'queued')"
                )
            ).one()
        at, elsewhere = time.monotonic() - self._began, self._elsewhere()
        since = self.samples[-1].at if self.samples else 0.0
        shared = (elsewhere - self._busy_elsewhere) / (at - since)
        self._busy_elsewhere = elsewhere
        return Sample(
            at=at,
            memory_mb=memory,
            open_files=files,
            postgresql_connections=connections,
            redis_clients=self._redis.info("clients")["connected_clients"],
            queued=queued,
            p50_ms=statistics.median(latencies),
            p95_ms=float(np.percentile(latencies, 95)),
            elsewhere=max(0.0, shared),
        )

    def _elsewhere(self) -> float:
        """Seconds of processor time that others have used, since whenever."""
        busy = psutil.cpu_times()
        ours = 0.0
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                ours += times.user + times.system
        return float(busy.user + busy.nice + busy.system - ours)

    def _await_quiet(self) -> None:
        until = time.monotonic() + _QUIET_SECONDS
        waiting = text(
            "SELECT (SELECT count(*) FROM inspections WHERE status IN ('queued', 'running'))"
            " + (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending')"
        )
        with self._database.connect() as connection:
            while left := connection.execute(waiting).scalar_one():
                if time.monotonic() > until:
                    self.violations.append(f"{left} still waited after {_QUIET_SECONDS:.0f} s")
                    return
                time.sleep(0.02)

    def _count(self, what: str) -> None:
        with self._lock:
            self.answers[what] += 1

    def _ask(self, what: str, value: object = None) -> Any:
        self._receiver.send((what, value))
        return self._receiver.recv()


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def memory_and_files(process: psutil.Process, *, is_shared: bool) -> tuple[float, int]:
    """Megabytes and open files of a process with its children."""
    megabytes, files = 0.0, 0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # a child may end at this moment
            of_one = one.memory_full_info().uss if is_shared else one.memory_info().rss
            megabytes += of_one / 2**20
            files += one.num_fds()
    return megabytes, files


def slope(points: list[tuple[float, float]]) -> dict[str, float]:
    """Megabytes an hour by least squares, and the standard error of that."""
    hours, mb = np.array(points).T / np.array([[3600.0], [1.0]])
    (per_hour, _), covariance = np.polyfit(hours, mb, 1, cov="unscaled")
    rest = mb - np.polyval(np.polyfit(hours, mb, 1), hours)
    error = float(np.sqrt(covariance[0, 0] * (rest @ rest) / max(1, len(points) - 2)))
    return {"slope": round(float(per_hour), 1), "error": round(error, 1)}


def bottles(count: int) -> list[bytes]:
    """Rendered, 900 x 900, as JPEG: one in four is good."""
    rng = np.random.default_rng(0)
    kinds = itertools.cycle(("good", "broken_large", "broken_small", "contamination"))
    photos = []
    for kind in itertools.islice(kinds, count):
        image = cv2.cvtColor(render_bottle(rng, kind).image, cv2.COLOR_RGB2BGR)
        photos.append(cv2.imencode(".jpg", image)[1].tobytes())
    return photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--share", type=float, default=0.7, help="of the measured capacity")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    warm_up = min(_LONGEST_WARM_UP_SECONDS, seconds / 3)
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(
            Path(folder),
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings={"DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS": "127.0.0.0/8"},
        )
        try:
            stack.start()
            campaign = Campaign(stack)
            capacity = campaign.capacity()
            rate = arguments.share * capacity
            print(f"capacity {capacity:.1f} photos a second; {rate:.1f} from now on", flush=True)
            campaign.run(seconds=seconds, rate=rate)
            found = campaign.judge(warm_up)
        finally:
            stack.stop()
    for name, line in found.get("mb_per_hour", {}).items():
        print(f"{name:10} {found['mb'][name]:6} MB, {line['slope']:+.1f} ± {line['error']} MB/hour")
    for violation in campaign.violations[:20]:
        print(f"VIOLATION: {violation}")
    print(
        json.dumps(
            {
                "campaign": "soak",
                "minutes": arguments.minutes,
                "capacity_per_s": round(capacity, 1),
                "rate_per_s": round(rate, 1),
                **found,
                "violations": len(campaign.violations),
            }
        )
    )
    sys.exit(1 if campaign.violations else 0)


if __name__ == "__main__":
    main()
