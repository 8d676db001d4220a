"""Clients that submit over HTTP from a process of their own, and what they saw.

Requests are built once and sent over kept connections, and this file imports little, so that the
clients take as little of the machine as Python can.
"""

import http.client
import pickle
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_BOUNDARY = "defectscope-bench"


@dataclass(frozen=True)
class Seen:
    """One run of a load."""

    started: float
    """By `time.perf_counter()`, one clock for all processes of a Linux machine."""
    seconds: float
    latencies_ms: list[float]
    failures: int
    """Answers other than 200 and 202."""

    @property
    def rate(self) -> float:
        return len(self.latencies_ms) / self.seconds

    def percentile(self, q: int) -> float:
        return statistics.quantiles(self.latencies_ms, n=100, method="inclusive")[q - 1]


def form(photo: bytes, fields: Mapping[str, str] | None = None) -> tuple[bytes, dict[str, str]]:
    """A multipart body with the photo as `file`, and its headers."""
    start = f"--{_BOUNDARY}\r\nContent-Disposition: form-data"
    parts = [
        f'{start}; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    parts.append(
        f'{start}; name="file"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode()
        + photo
        + f"\r\n--{_BOUNDARY}--\r\n".encode()
    )
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


def send(
    url: str,
    photos: list[bytes],
    *,
    headers: Mapping[str, str],
    requests: int,
    clients: int,
    rate: float | None = None,
) -> Seen:
    """Post the photos in turn, `requests` in all, from so many clients.

    `rate`: requests a second in all, each sent when it is due, and its latency counted from then,
    so that a server that stalls is not excused by clients that wait for it. Without it each client
    sends when its last request is answered.
    """
    asked = pickle.dumps((url, photos, dict(headers), requests, clients, rate))
    process = subprocess.run(
        [sys.executable, __file__], input=asked, stdout=subprocess.PIPE, check=True
    )
    return Seen(*pickle.loads(process.stdout))


def _send(
    url: str,
    photos: list[bytes],
    headers: dict[str, str],
    requests: int,
    clients: int,
    rate: float | None,
) -> tuple[float, float, list[float], int]:
    """The fields of `Seen`."""
    where = urlsplit(url)
    bodies = [form(photo) for photo in photos]
    latencies: list[float] = []
    failures = 0
    lock = threading.Lock()
    numbers = iter(range(requests))
    started = time.perf_counter() + 0.1

    def client() -> None:
        nonlocal failures
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                connection.close()
                return
            due = started + (number / rate if rate else 0)
            time.sleep(max(0.0, due - time.perf_counter()))
            since = due if rate else time.perf_counter()
            body, of_form = bodies[number % len(bodies)]
            try:
                status = post(connection, where.path, body, {**headers, **of_form})
            except ConnectionError:
                # The server has closed a connection that was idle for long: what clients do then.
                connection.close()
                status = post(connection, where.path, body, {**headers, **of_form})
            is_good = status in {200, 202}
            took = (time.perf_counter() - since) * 1000
            with lock:
                latencies.append(took)
                failures += not is_good

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return started, time.perf_counter() - started, latencies, failures


def post(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: Mapping[str, str]
) -> int:
    """The status of the answer."""
    connection.request("POST", path, body, dict(headers))
    answer = connection.getresponse()
    answer.read()
    return answer.status


def checked(seen: Seen) -> Seen:
    """The same. Ends the benchmark if any request was not answered well."""
    if seen.failures:
        raise SystemExit(f"{seen.failures} of {len(seen.latencies_ms)} were not answered well")
    return seen


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_port(port: int, seconds: float = 120) -> None:
    """Return when something listens there. Ends the benchmark if nothing does in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


if __name__ == "__main__":
    answer = _send(*pickle.load(sys.stdin.buffer))
    sys.stdout.buffer.write(pickle.dumps(answer))
