"""Deliveries while the deliverer is killed, and how fast they are when it is not.

    .venv/bin/python tests/campaigns/webhooks.py --deliveries 10000 --kills 12

Real processes: PostgreSQL, Redis, an API, a worker with an engine that looks at nothing, a
deliverer; and a receiver that verifies every signature with the `standardwebhooks` package, whose
secret is rotated in the middle. First the way of single verdicts to the receiver on the idle stack;
then that of many, in turns beside endpoints that behave and that misbehave; then the volume without
faults, then with kill -9 and FLUSHALL. The last line is JSON; the exit code is 1 if anything was
lost or not verified.
"""

import argparse
import contextlib
import http.server
import json
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import httpx
import psutil
import redis
from chaos import HERE, photo, redis_url
from receiver import receive, start
from sqlalchemy import create_engine, text

from deploy.local import LocalStack

_MOST_LATENCY_MS = 100
_LEAST_RATE = 200
_MOST_SLOWER = 2
"""Times that the p99 of a good endpoint may grow beside those that misbehave."""
_BEHAVED = "http://127.0.0.1:%d/204"
_MISBEHAVIOURS = (
    *(f"http://127.0.0.1:%d/{how}" for how in ("500", "429", "302", "drip", "huge")),
    *(f"http://127.0.0.1:%d/{how}" for how in ("close", "silence")),
    "https://127.0.0.1:%d/tls",
)
_EACH = 2
"""Endpoints of each of them, and of those that behave. Who answers 200 with 10 MB is sent
everything, where the others rest: as many that behave stand beside the good one for comparison, or
else more traffic would be taken for misbehaviour."""
_RATE = 20
"""Photos a second, so that the machine is not busy."""
_LOT = 500
"""Photos that are submitted; each is told again and again by replays."""


def misbehave(pipe: Connection) -> None:
    """A process of its own, so that it takes no time from the good receiver."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            with contextlib.suppress(OSError):  # they are hung up on
                if self.path == "/500":
                    self.wfile.write(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")
                elif self.path == "/429":
                    self.wfile.write(b"HTTP/1.1 429 X\r\nRetry-After: 1\r\n\r\n")
                elif self.path == "/302":
                    self.wfile.write(b"HTTP/1.1 302 X\r\nLocation: http://169.254.169.254/\r\n\r\n")
                elif self.path == "/drip":
                    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":
                        self.wfile.write(bytes([byte]))
                        time.sleep(1)
                elif self.path == "/huge":
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
                    self.wfile.write(bytes(10_000_000))
                elif self.path == "/silence":
                    time.sleep(60)
                elif self.path == "/204":
                    self.wfile.write(b"HTTP/1.1 204 X\r\n\r\n")
            self.close_connection = self.path not in ("/204", "/500")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None
    pipe.send(server.server_port)
    server.serve_forever()


class Campaign:
    def __init__(self, stack: LocalStack) -> None:
        self.violations: list[str] = []
        self._stack = stack
        self._http = httpx.Client(
            base_url=stack.url, headers={"X-API-Key": stack.admin_key}, timeout=60
        )
        self._database = create_engine(
            stack.database_url, pool_pre_ping=True, isolation_level="AUTOCOMMIT"
        )
        self._receiver, port = start(receive)
        made = self._post("/v1/webhooks", json={"url": f"http://127.0.0.1:{port}/"})
        self._endpoint = f"/v1/webhooks/{made['id']}"
        self._ask("secret", made["secret"])

    def latency(self, count: int) -> dict[str, Any]:
        """Milliseconds from the verdict in the row to the receiver, one photo at a time."""
        took = []
        for number in range(count):
            id_ = self._post(
                "/v1/inspections",
                files={"file": photo(number % 12)},
                headers={"Prefer": "wait=10"},
            )["id"]
            self._await(lambda id_=id_: id_ in self._ask("seen")[1], 10)  # type: ignore[misc]
            finished = self._value(
                "SELECT extract(epoch FROM finished_at) FROM inspections WHERE id = :id", id=id_
            )
            took.append((self._ask("seen")[1][id_] - float(finished)) * 1000)
        p50 = statistics.median(took)
        print(f"verdict to receiver, idle: p50 {p50:.0f} ms, worst of {count} {max(took):.0f} ms")
        if p50 >= _MOST_LATENCY_MS:
            self.violations.append(f"p50 {p50:.0f} ms from verdict to receiver")
        return {"p50_ms": round(p50), "max_ms": round(max(took))}

    def beside(self, count: int) -> dict[str, Any]:
        """The way of many verdicts to the good receiver, beside others that behave or do not."""
        _, port = start(misbehave)
        quiet, beside = [], []
        for _ in range(2):  # in turns: a busy moment of the machine hits both
            quiet += self._way_beside([_BEHAVED % port], count // 2)
            beside += self._way_beside([url % port for url in _MISBEHAVIOURS], count // 2)
        p99, p99_beside = (statistics.quantiles(took, n=100)[98] for took in (quiet, beside))
        ratio = p99_beside / p99
        print(
            f"verdict to receiver, {_RATE} a second: p99 {p99:.0f} ms beside {_EACH} endpoints "
            f"that behave, {p99_beside:.0f} ms beside {len(_MISBEHAVIOURS) * _EACH} that do not: "
            f"{ratio:.2f} times"
        )
        if ratio > _MOST_SLOWER:
            self.violations.append(f"a good endpoint is {ratio:.1f} times slower beside bad ones")
        return {
            "p99_ms": round(p99),
            "p99_beside_ms": round(p99_beside),
            "ratio": round(ratio, 2),
        }

    def _way_beside(self, urls: list[str], count: int) -> list[float]:
        """`_way_of` while there are endpoints at these, `_EACH` at each."""
        made = [self._post("/v1/webhooks", json={"url": url})["id"] for url in urls * _EACH]
        took = self._way_of(count)
        for id_ in made:
            self._http.delete(f"/v1/webhooks/{id_}").raise_for_status()
        return took

    def _way_of(self, count: int) -> list[float]:
        """Milliseconds from verdict to receiver of so many photos, at a steady rate."""
        ids = []
        started = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, started + number / _RATE - time.monotonic()))
            ids.append(self._post("/v1/inspections", files={"file": photo(number % 12)})["id"])
        self._await(lambda: self._ask("seen")[1].keys() >= set(ids), 60)
        arrived = self._ask("seen")[1]
        with self._database.connect() as connection:
            finished = connection.execute(
                text("SELECT id, extract(epoch FROM finished_at) FROM inspections"),
            ).all()
        return [(arrived[id_] - float(at)) * 1000 for id_, at in finished if id_ in set(ids)]

    def prepare(self) -> None:
        for number in range(_LOT):
            self._post(
                "/v1/inspections", files={"file": photo(number % 12)}, data={"lot": "volume"}
            )
        self._await(self._is_quiet, 120)

    def volume(self, deliveries: int, kills: int) -> dict[str, Any]:
        """Replay the lot until so many were delivered, with so many kills in between."""
        self._ask("forget")
        sent = 0
        deliverer = psutil.Process(self._stack.pid("deliverer"))
        cpu_before = deliverer.cpu_times()
        started = time.monotonic()
        is_whole, is_over = threading.Event(), threading.Event()
        breaking = threading.Thread(target=self._break, args=(kills, is_whole, is_over))
        breaking.start()
        while sent < deliveries or not is_whole.is_set():
            sent += self._post(f"{self._endpoint}/replay", json={"lot": "volume"})["deliveries"]
            if kills and sent == deliveries // 2 // _LOT * _LOT:
                self._ask("secret", self._post(f"{self._endpoint}/rotate")["secret"])
            self._await(self._is_quiet, 120)
        took = time.monotonic() - started
        cpu_s = None if kills else sum(deliverer.cpu_times()[:2]) - sum(cpu_before[:2])
        is_over.set()
        breaking.join()
        seen, _, unverified = self._ask("seen")
        arrived = sum(seen.values())
        lost = sum(max(0, sent // _LOT - count) for count in seen.values())
        lost += (_LOT - len(seen)) * (sent // _LOT)
        rate = arrived / took
        print(
            f"{sent} deliveries, {kills} kills: {arrived} arrived, {lost} lost, {arrived - sent} "
            f"twice, {unverified} not verified; {rate:.0f} a second"
        )
        if lost or unverified or len(seen) != _LOT:
            self.violations.append(f"{lost} lost, {unverified} not verified, {len(seen)} ids")
        if not kills and rate < _LEAST_RATE:
            self.violations.append(f"{rate:.0f} deliveries a second")
        if cpu_s is not None:
            print(f"the deliverer spent {cpu_s / arrived * 1000:.2f} ms of a core on each")
        return {
            "deliveries": sent,
            "arrived": arrived,
            "lost": lost,
            "twice": arrived - sent,
            "unverified": unverified,
            "per_s": round(rate),
            "cpu_ms_each": None if cpu_s is None else round(cpu_s / arrived * 1000, 2),
        }

    def _break(self, kills: int, is_whole: threading.Event, is_over: threading.Event) -> None:
        for number in range(kills):
            time.sleep(5)
            os.kill(self._stack.pid("deliverer"), signal.SIGKILL)
            if number % 3 == 2:
                with redis.Redis.from_url(redis_url(self._stack.pid("worker"))) as client:
                    client.flushall()
            self._stack.start_again("deliverer")
        is_whole.set()
        # What it started ends with this thread.
        is_over.wait()

    def _is_quiet(self) -> bool:
        waiting = "SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'"
        queued = "SELECT count(*) FROM inspections WHERE status IN ('queued', 'running')"
        return not self._value(queued) and not self._value(waiting)

    def _post(self, path: str, **request: Any) -> Any:
        answer = self._http.post(path, **request)
        answer.raise_for_status()
        return answer.json()

    def _ask(self, what: str, value: object = None) -> Any:
        self._receiver.send((what, value))
        return self._receiver.recv()

    def _value(self, query: str, **values: object) -> Any:
        with self._database.connect() as connection:
            return connection.execute(text(query), values).scalar_one()

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                self.violations.append(f"not within {seconds:.0f} s")
                return
            time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--deliveries", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(
            Path(folder),
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings={"DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS": "127.0.0.0/8"},
            worker_command=[sys.executable, str(HERE / "standin_worker.py")],
        )
        try:
            stack.start()
            campaign = Campaign(stack)
            time.sleep(5)
            found = {"latency": campaign.latency(40), "beside": campaign.beside(600)}
            campaign.prepare()
            found["alone"] = campaign.volume(arguments.deliveries, 0)
            found["killed"] = campaign.volume(arguments.deliveries, arguments.kills)
        finally:
            stack.stop()
    for violation in campaign.violations:
        print(f"VIOLATION: {violation}")
    print(json.dumps({"campaign": "webhooks", **found, "violations": len(campaign.violations)}))
    sys.exit(1 if campaign.violations else 0)


if __name__ == "__main__":
    main()
