"""One part away at a time, and what callers get meanwhile.

    .venv/bin/python tests/campaigns/outages.py

Real processes: PostgreSQL, Redis, an API, two workers with an engine that looks at nothing, and S3
over HTTP. While Redis is stopped or gone, photos are accepted as fast as ever; without PostgreSQL
or storage they are refused with 503 and leave nothing; what was accepted before waits and loses no
attempt. A full disk is tried on a file system of 48 MB, which needs root. The last line is JSON;
the exit code is 1 if anything was not so.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from chaos import HERE, photo
from faulty_storage import FaultyStorage, Mood
from sqlalchemy import create_engine, text

from deploy.local import LocalStack

_MOST_REDIS_P99_MS = 500
_MOST_BACK_SECONDS = 3.0
_SAME_KEY = 100


class Campaign:
    def __init__(self, redis_seconds: float) -> None:
        self._redis_seconds = redis_seconds
        self.violations: list[str] = []
        self.figures: dict[str, Any] = {}

    def run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            storage = FaultyStorage()
            storage.start()
            try:
                with self._stack(Path(folder), storage.settings, workers=2):
                    self._same_key_at_once()
                    self._redis("stopped", signal.SIGSTOP)
                    self._postgres_away()
                    self._storage_away(storage, Mood.AWAY)
                    self._storage_away(storage, Mood.ERRORS)
                    self._redis("killed", signal.SIGKILL)
            finally:
                storage.stop()
        with tempfile.TemporaryDirectory() as folder:
            self._disk_full(Path(folder))

    # -- the outages

    def _same_key_at_once(self) -> None:
        """One hundred submissions with one Idempotency-Key, and then another payload."""
        with ThreadPoolExecutor(_SAME_KEY) as pool:
            answers = list(pool.map(lambda _: self._submit(0, key="all"), range(_SAME_KEY)))
        ids = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        codes = Counter(answer.status_code for answer in answers)
        print(f"{_SAME_KEY} at once with one key: {dict(codes)}, {len(ids)} inspection")
        self._expect(len(ids) == 1, f"one key made {len(ids)} inspections")
        self._expect(set(codes) <= {200, 202, 409}, f"one key at once: {dict(codes)}")
        other = self._submit(1, key="all")
        self._expect(other.status_code == 422, f"another payload: {other.status_code}")
        self.figures["one_key"] = {"inspections": len(ids), "other_payload": other.status_code}

    def _redis(self, how: str, by: signal.Signals) -> None:
        pid = self.stack.pid("Redis")
        os.kill(pid, by)
        took, codes = self._submit_for(self._redis_seconds)
        is_told = not self._is_up("queue")
        if by is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        else:
            self.stack.start_again("Redis")
        back = time.monotonic()
        waited, claimed = self._until_all_are_done(), self._first_claim(back)
        p99 = statistics.quantiles(took, n=100)[98]
        print(
            f"redis {how} for {self._redis_seconds:.0f} s: {dict(codes)}, p50 "
            f"{statistics.median(took):.0f} ms, p99 {p99:.0f} ms; the last of {len(took)} photos "
            f"done {waited:.1f} s after it was back, first claim {claimed:.1f} s"
        )
        self._expect(set(codes) == {202}, f"redis {how}: {dict(codes)}")
        self._expect(p99 < _MOST_REDIS_P99_MS, f"redis {how}: p99 {p99:.0f} ms")
        self._expect(is_told, f"redis {how}: /readyz did not tell")
        self._expect(claimed <= _MOST_BACK_SECONDS, f"redis {how}: {claimed:.1f} s until claimed")
        self.figures[f"redis_{how}"] = {"p99_ms": round(p99), "first_claim_s": round(claimed, 1)}

    def _postgres_away(self) -> None:
        before = self._count()
        pid = self.stack.pid("PostgreSQL")
        os.kill(pid, signal.SIGQUIT)
        took, codes = self._submit_for(15)
        self.stack.start_again("PostgreSQL")
        self._await_ready()
        added = self._count() - before
        print(f"postgresql away: {dict(codes)}, slowest {max(took):.0f} ms; {added} rows")
        self._expect(set(codes) <= {202, 503}, f"postgresql away: {dict(codes)}")
        # Those of the moment in which it went may have been accepted, each with its row.
        self._expect(added == codes[202], f"{codes[202]} were accepted, {added} rows came")
        self._expect(codes[503] > codes[202], f"postgresql away: {dict(codes)}")
        self.figures["postgresql_away"] = {"slowest_ms": round(max(took)), **_named(codes)}

    def _storage_away(self, storage: FaultyStorage, mood: Mood) -> None:
        """Photos that wait meanwhile must not lose an attempt over it."""
        for name in ("worker", "worker-2"):
            os.kill(self.stack.pid(name), signal.SIGSTOP)
        waiting = [self._submit(n).json()["id"] for n in range(40)]
        storage.become(mood)
        for name in ("worker", "worker-2"):
            os.kill(self.stack.pid(name), signal.SIGCONT)
        before = self._count()
        took, codes = self._submit_for(15)
        added = self._count() - before
        running = self._rows(waiting)
        storage.become(Mood.GOOD)
        waited = self._until_all_are_done()
        ends = self._rows(waiting)
        how = mood.name.lower()
        print(
            f"storage {how}: {dict(codes)}, slowest {max(took):.0f} ms, {added} rows; of 40 that "
            f"waited: {dict(Counter(s for s, _ in running))}, then {dict(Counter(ends))} "
            f"{waited:.1f} s after it was back"
        )
        self._expect(set(codes) == {503}, f"storage {how}: {dict(codes)}")
        self._expect(added == 0, f"storage {how}: {added} rows")
        self._expect(
            all(end == ("succeeded", 1) for end in ends), f"storage {how}: {dict(Counter(ends))}"
        )
        self.figures[f"storage_{how}"] = {"slowest_ms": round(max(took)), **_named(codes)}

    def _disk_full(self, folder: Path) -> None:
        objects = folder / "objects"
        objects.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(objects)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            print("disk full: left out, nothing can be mounted here")
            self.figures["disk_full"] = None
            return
        try:
            with self._stack(folder, {}, workers=1):
                os.kill(self.stack.pid("worker"), signal.SIGSTOP)
                waiting = [self._submit(n).json()["id"] for n in range(20)]
                filler = objects / "filler"
                with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                before = self._count()
                os.kill(self.stack.pid("worker"), signal.SIGCONT)
                _, codes = self._submit_for(10)
                added = self._count() - before
                left = [path.name for path in objects.rglob(".incoming-*")]
                filler.unlink()
                self._until_all_are_done()
                ends = Counter(self._rows(waiting))
        finally:
            subprocess.run(["umount", "--lazy", str(objects)], check=False)
        print(f"disk full: {dict(codes)}, {added} rows, {len(left)} left-overs; then {dict(ends)}")
        self._expect(set(codes) == {503}, f"disk full: {dict(codes)}")
        self._expect(added == 0 and not left, f"disk full: {added} rows, left over: {left}")
        self._expect(ends == {("succeeded", 1): 20}, f"disk full: {dict(ends)}")
        self.figures["disk_full"] = _named(codes)

    # -- what they are made of

    @contextlib.contextmanager
    def _stack(self, folder: Path, settings: dict[str, str], *, workers: int) -> Iterator[None]:
        self.stack = LocalStack(
            folder,
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings=settings,
            workers=workers,
            worker_command=[sys.executable, str(HERE / "standin_worker.py")],
        )
        try:
            self.stack.start()
            self._http = httpx.Client(
                base_url=self.stack.url,
                headers={"X-API-Key": self.stack.admin_key},
                timeout=30,
                limits=httpx.Limits(max_connections=_SAME_KEY),
            )
            self._database = create_engine(
                self.stack.database_url, pool_pre_ping=True, isolation_level="AUTOCOMMIT"
            )
            yield
        finally:
            self.stack.stop()

    def _submit(self, number: int, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._http.post(
            "/v1/inspections", files={"file": photo(number % 12)}, headers=headers
        )

    def _submit_for(self, seconds: float) -> tuple[list[float], Counter[int]]:
        """Ten a second, each on its own connection if need be; milliseconds and answers."""
        took: list[float] = []
        codes: Counter[int] = Counter()

        def one(number: int) -> None:
            started = time.perf_counter()
            answer = self._submit(number)
            took.append((time.perf_counter() - started) * 1000)
            codes[answer.status_code] += 1
            if answer.status_code == 503 and "Retry-After" not in answer.headers:
                self.violations.append("503 without Retry-After")

        until, number = time.monotonic() + seconds, 0
        with ThreadPoolExecutor(16) as pool:
            while time.monotonic() < until:
                pool.submit(one, number)
                number += 1
                time.sleep(0.1)
        self._expect(len(took) == number, f"{number - len(took)} submissions got no answer")
        return took, codes

    def _is_up(self, part: str) -> bool:
        return bool(self._http.get("/readyz").json()["checks"][part] == "ok")

    def _await_ready(self) -> None:
        self._await(lambda: self._http.get("/readyz").status_code == 200, 60)

    def _until_all_are_done(self) -> float:
        started = time.monotonic()
        waiting = "SELECT count(*) FROM inspections WHERE status IN ('queued', 'running')"
        self._await(lambda: not self._ask(waiting), 60)
        return time.monotonic() - started

    def _first_claim(self, back: float) -> float:
        """Seconds after `back` of the first claim since then."""
        since = time.monotonic() - back
        first = self._ask(
            "SELECT extract(epoch FROM min(started_at) - (clock_timestamp() - :since * interval "
            "'1 second')) FROM inspections WHERE started_at > clock_timestamp() - :since * "
            "interval '1 second'",
            since=since,
        )
        return float(first or 0)

    def _count(self) -> int:
        return int(self._ask("SELECT count(*) FROM inspections"))

    def _rows(self, ids: list[str]) -> list[tuple[str, int]]:
        with self._database.connect() as connection:
            rows = connection.execute(
                text("SELECT status, attempts FROM inspections WHERE id = ANY(:ids)"), {"ids": ids}
            )
            return [(row.status, row.attempts) for row in rows]

    def _ask(self, query: str, **values: object) -> Any:
        with self._database.connect() as connection:
            return connection.execute(text(query), values).scalar_one()

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                self.violations.append(f"not within {seconds:.0f} s")
                return
            time.sleep(0.05)

    def _expect(self, is_so: bool, otherwise: str) -> None:
        if not is_so:
            self.violations.append(otherwise)


def _named(codes: Counter[int]) -> dict[str, int]:
    return {str(code): count for code, count in sorted(codes.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--redis-seconds", type=float, default=60)
    campaign = Campaign(parser.parse_args().redis_seconds)
    campaign.run()
    for violation in campaign.violations:
        print(f"VIOLATION: {violation}")
    print(
        json.dumps(
            {
                "campaign": "outages",
                **campaign.figures,
                "violations": len(campaign.violations),
            }
        )
    )
    sys.exit(1 if campaign.violations else 0)


if __name__ == "__main__":
    main()
