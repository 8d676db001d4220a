"""How soon a worker is ready, and how much memory it takes.

    .venv/bin/python tests/benchmarks/bench_worker.py

Kills the worker of a local stack and times its successor, from its start to its "worker_ready";
the baseline is a Python that only imports what the worker imports. Memory is the peak of resident
memory of the worker and its decoding processes while photos are judged, each process by itself,
so shared pages count more than once.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import psutil
from measuring import finish, machine, render_photos

from deploy.local import LocalStack

_IMPORTS = "import torch, openvino, cv2, celery, sqlalchemy, boto3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()
    ready, imports = [], []
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None)
        try:
            stack.start()
            threading.Thread(target=_watch, args=(stack,), daemon=True).start()
            log = Path(folder) / "logs" / "worker.log"
            for _ in range(arguments.rounds):
                started = time.perf_counter()
                subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
                imports.append(time.perf_counter() - started)
                ready.append(_restart(stack, log))
            peak_mb = _judge(stack, arguments.photos)
        finally:
            stack.stop()
    ratio = statistics.median(ready) / statistics.median(imports)
    if not arguments.json:
        shown = ", ".join(f"{seconds:.1f}" for seconds in ready)
        print(f"start to ready: {shown} s; its imports alone {statistics.median(imports):.1f} s")
        print(f"start to ready against its imports alone: {ratio:.2f} x")
        print(f"peak memory while {arguments.photos} photos were judged: {peak_mb} MB")
    finish(
        {
            "bench": "worker",
            "ready_s": [round(seconds, 1) for seconds in ready],
            "ratios": {"imports": round(ratio, 2)},
            "peak_mb": peak_mb,
            "machine": machine(),
        },
        as_json=arguments.json,
    )


def _watch(stack: LocalStack) -> None:
    try:
        stack.watch()
    except Exception as error:
        print(error, file=sys.stderr)


def _restart(stack: LocalStack, log: Path) -> float:
    """Seconds from the start of the worker's successor until it says that it is ready."""
    lines = len(re.findall("worker_ready", log.read_text()))
    killed = stack.pid("worker")
    os.kill(killed, signal.SIGKILL)
    while stack.pid("worker") == killed:
        time.sleep(0.01)
    started = psutil.Process(stack.pid("worker")).create_time()
    while len(re.findall("worker_ready", log.read_text())) == lines:
        time.sleep(0.02)
    return time.time() - started


def _judge(stack: LocalStack, count: int) -> dict[str, int]:
    photos = render_photos(8, ".jpg")
    headers = {"X-API-Key": stack.admin_key}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as http:
        for number in range(count):
            http.post(
                "/v1/inspections", files={"file": photos[number % len(photos)]}
            ).raise_for_status()
        while True:
            queued = http.get("/v1/inspections", params={"status": "queued", "page_size": 1})
            if not queued.json()["inspections"]:
                break
            time.sleep(0.2)
    worker = psutil.Process(stack.pid("worker"))
    decoders = [_peak_mb(child.pid) for child in worker.children(recursive=True)]
    return {"worker": _peak_mb(worker.pid), "decoders": sum(decoders)}


def _peak_mb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) // 1024 if peak else 0


if __name__ == "__main__":
    main()
