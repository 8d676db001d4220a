"""Clients that nobody should have: endless, lying, many, slow; and a good one beside them.

    .venv/bin/python tests/campaigns/clients.py

Each hostile request has to be answered 4xx or cut off, with less than 50 MB of memory for all of
it; 500 slow connections have to be closed within 15 s, and meanwhile the p99 of a good client may
at most double. The last line is JSON; the exit code is 1 if anything was not so.
"""

import argparse
import asyncio
import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
from hostile import _photo, forget_peak, peak_mb

from deploy.local import LocalStack

_MOST_MB = 50
_SLOW = 500
_WAVES = 3
"""One after another, so that a p99 is not the worst of a hundred."""
_MOST_SECONDS = 15.0


def gigabyte() -> Iterator[bytes]:
    piece = bytes(1 << 20)
    for _ in range(1024):
        yield piece


def endless(http: httpx.Client) -> str:
    """One gigabyte, chunked: nobody knows beforehand how much it is."""
    headers = {"Content-Type": "image/png"}
    try:
        return str(http.post("/v1/inspections", content=gigabyte(), headers=headers).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def lying(http: httpx.Client) -> str:
    """A Content-Length of one gigabyte, and ten bytes; httpx is too honest for that."""
    key = http.headers["X-API-Key"].encode()
    with socket.create_connection((http.base_url.host, http.base_url.port), 30) as connection:
        connection.sendall(
            b"POST /v1/inspections HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"X-API-Key: " + key + b"\r\nContent-Length: 1073741824\r\n\r\n0123456789"
        )
        return connection.recv(4096).split()[1].decode()


def parts(http: httpx.Client) -> str:
    """A form of 10,000 parts."""
    files = [(f"field{n}", (None, "x")) for n in range(10_000)]
    return str(http.post("/v1/inspections", files=files).status_code)


def same_file_often(http: httpx.Client) -> str:
    """A form of 10,000 files."""
    files = [("file", (f"{n}.png", b"x")) for n in range(10_000)]
    return str(http.post("/v1/inspections", files=files).status_code)


def endless_json(http: httpx.Client, path: str = "/v1/keys") -> str:
    """One gigabyte where a few hundred bytes of JSON belong."""
    headers = {"Content-Type": "application/json"}
    try:
        return str(http.post(path, content=gigabyte(), headers=headers).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def endless_json_without_key(http: httpx.Client) -> str:
    with httpx.Client(base_url=http.base_url, timeout=http.timeout) as anonymous:
        return endless_json(anonymous, "/v1/uploads")


def long_headers(http: httpx.Client) -> str:
    try:
        answer = http.get("/v1/inspections", headers={f"X-{n}": "y" * 1000 for n in range(200)})
        return str(answer.status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


_ATTACKS = (
    *(endless, lying, parts, same_file_often),
    *(endless_json, endless_json_without_key, long_headers),
)


async def slow_connections(url: str, key: str) -> list[float]:
    """Begin 500 submissions that then bring a byte a second; seconds until each is closed."""
    at = urlsplit(url)

    async def one() -> float:
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        started = time.monotonic()
        writer.write(
            b"POST /v1/inspections HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"X-API-Key: " + key.encode() + b"\r\nContent-Length: 100000\r\n\r\n"
        )

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(1)

        dripping = asyncio.create_task(drip())
        try:
            while await asyncio.wait_for(reader.read(1024), 60):
                pass
        except (OSError, TimeoutError):
            pass
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        writer.close()
        return time.monotonic() - started

    return list(await asyncio.gather(*(one() for _ in range(_SLOW))))


def slow(url: str, key: str) -> list[float]:
    return asyncio.run(slow_connections(url, key))


def good_client(http: httpx.Client, stop: threading.Event) -> list[float]:
    """Milliseconds of each submission, one after another, ten a second."""
    photo, took = _photo("JPEG"), []
    while not stop.is_set():
        started = time.perf_counter()
        answer = http.post("/v1/inspections", files={"file": photo})
        took.append((time.perf_counter() - started) * 1000)
        answer.raise_for_status()
        stop.wait(0.1)
    return took


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    violations = []
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None, workers=0)
        try:
            stack.start()
            headers = {"X-API-Key": stack.admin_key}
            api = psutil.Process(stack.pid("api"))
            with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as http:
                http.post("/v1/inspections", files={"file": _photo("PNG")}).raise_for_status()
                grown = {}
                for attack in _ATTACKS:
                    before = api.memory_info().rss // 2**20
                    forget_peak(api)
                    started = time.perf_counter()
                    answer = attack(http)
                    took = time.perf_counter() - started
                    name, megabytes = attack.__name__, peak_mb(api) - before
                    grown[name] = megabytes
                    said = f"{name}: {answer} after {took:.1f} s, {megabytes} MB"
                    print(said)
                    if answer.startswith(("2", "5")) or megabytes >= _MOST_MB:
                        violations.append(said)
                quiet = _measure(http, seconds=_WAVES * 11)
                done = threading.Event()
                during: list[float] = []
                measuring = threading.Thread(target=lambda: during.extend(good_client(http, done)))
                measuring.start()
                # In a process of their own: the good client must not wait for their interpreter.
                with ProcessPoolExecutor(1) as other:
                    waves = [other.submit(slow, stack.url, stack.admin_key) for _ in range(_WAVES)]
                    closed = [seconds for wave in waves for seconds in wave.result()]
                done.set()
                measuring.join()
        finally:
            stack.stop()
    ratio = p99(during) / p99(quiet)
    print(f"{_SLOW} slow connections: closed after {max(closed):.1f} s at most")
    print(f"good client: p99 {p99(quiet):.0f} ms alone, {p99(during):.0f} ms beside, {ratio:.2f} x")
    if max(closed) > _MOST_SECONDS:
        violations.append(f"a slow connection was open for {max(closed):.1f} s")
    if ratio >= 2:
        violations.append(f"the good client's p99 grew {ratio:.2f} times")
    for violation in violations:
        print(f"VIOLATION: {violation}")
    print(
        json.dumps(
            {
                "campaign": "clients",
                "grown_mb": grown,
                "closed_after_s": round(max(closed), 1),
                "p99_ms": {"alone": round(p99(quiet)), "beside": round(p99(during))},
                "ratios": {"p99": round(ratio, 2)},
                "violations": len(violations),
            }
        )
    )
    sys.exit(1 if violations else 0)


def _measure(http: httpx.Client, *, seconds: float) -> list[float]:
    stop = threading.Event()
    threading.Timer(seconds, stop.set).start()
    return good_client(http, stop)


if __name__ == "__main__":
    main()
