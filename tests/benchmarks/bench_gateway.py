"""The gateway alone, against a bare FastAPI endpoint that does the least, in the same run.

    defectscope bench gateway

The baseline (bare_gateway.py) reads the body, puts it with boto3 and inserts one row. Ours does
the same and checks the key, the photo's structure, the product, writes the history and rings. Both
have the same PostgreSQL and the same S3 server (moto, over HTTP), and no worker runs. Since that
server takes more of the machine than either gateway, the processor time of the gateways themselves
is compared too. Then the latency at 60 % of the capacity, and the memory over many submissions.

Rounds alternate. The last line is JSON.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import boto3
import psutil
from load import await_port, checked, free_port, send
from measuring import Rates, finish, render_photos, tell, tell_ratio
from sqlalchemy import create_engine, text

from deploy.local import LocalStack

HERE = Path(__file__).parent


def start(command: list[str], port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    )
    await_port(port)
    return process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--soak", type=int, default=20_000, help="submissions for the memory")
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()

    photos = render_photos(8, ".jpg")
    s3_port, bare_port = free_port(), free_port()
    s3_url = f"http://127.0.0.1:{s3_port}"
    moto = start(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3_port)], s3_port, {}
    )
    boto3.client(
        "s3",
        endpoint_url=s3_url,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="bench",
    ).create_bucket(Bucket="defectscope")
    bare = None
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(
            Path(folder),
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings={
                "DEFECTSCOPE_STORAGE_URL": "s3://defectscope",
                "DEFECTSCOPE_S3_ENDPOINT_URL": s3_url,
                "DEFECTSCOPE_S3_ACCESS_KEY_ID": "bench",
                "DEFECTSCOPE_S3_SECRET_ACCESS_KEY": "bench",
                "DEFECTSCOPE_MAX_QUEUED": "1000000",
                "DEFECTSCOPE_MAX_QUEUED_PER_KEY": "1000000",
                "DEFECTSCOPE_REQUESTS_PER_SECOND": "100000",
            },
            workers=0,
        )
        try:
            stack.start()
            with create_engine(stack.database_url).begin() as connection:
                connection.execute(
                    text("CREATE TABLE bare (id text PRIMARY KEY, key text, bytes int)")
                )
            bare = start(
                [sys.executable, str(HERE / "bare_gateway.py")],
                bare_port,
                {
                    "BARE_DATABASE_URL": stack.database_url,
                    "BARE_S3_URL": s3_url,
                    "BARE_PORT": str(bare_port),
                },
            )
            measure(arguments, stack, bare.pid, bare_port, s3_url, photos)
        finally:
            for process in (bare, moto):
                if process is not None:
                    process.terminate()
                    process.wait()
            stack.stop()


def measure(
    arguments: argparse.Namespace,
    stack: LocalStack,
    bare_pid: int,
    bare_port: int,
    s3_url: str,
    photos: list[bytes],
) -> None:
    ours_url = f"{stack.url}/v1/inspections"
    key = {"X-API-Key": stack.admin_key}
    contenders = {
        "ours": (ours_url, key, psutil.Process(stack.pid("api"))),
        "bare": (f"http://127.0.0.1:{bare_port}/submit", {}, psutil.Process(bare_pid)),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    costs: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(arguments.rounds + 1):
        for name, (url, headers, process) in contenders.items():
            before = cpu_seconds(process)
            seen = checked(
                send(
                    url,
                    photos,
                    headers=headers,
                    requests=arguments.requests,
                    clients=arguments.clients,
                )
            )
            if number:  # the first round warms
                rates[name].append(seen.rate)
                costs[name].append(arguments.requests / (cpu_seconds(process) - before))
    by_rate = {name: Rates(values) for name, values in rates.items()}
    by_cost = {name: Rates(values) for name, values in costs.items()}
    capacity = by_rate["ours"].median
    at_60 = checked(
        send(
            ours_url,
            photos,
            headers=key,
            requests=max(200, arguments.requests),
            clients=arguments.clients,
            rate=0.6 * capacity,
        )
    )
    memory = soak(contenders["ours"][2], ours_url, key, photos, arguments)
    ratios = {
        "bare": by_rate["ours"].over(by_rate["bare"]),
        "bare_processor": by_cost["ours"].over(by_cost["bare"]),
    }
    if not arguments.json:
        tell("ours", by_rate["ours"], "photos/s")
        tell("bare endpoint", by_rate["bare"], "photos/s")
        tell("ours, per processor second", by_cost["ours"], "photos  ")
        tell("bare, per processor second", by_cost["bare"], "photos  ")
        tell_ratio("throughput against bare", ratios["bare"])
        tell_ratio("per processor second", ratios["bare_processor"])
        print(
            f"at 60 % of capacity: p50 {at_60.percentile(50):.1f} ms, "
            f"p99 {at_60.percentile(99):.1f} ms"
        )
        print(f"memory of the gateway, MB after each tenth of {arguments.soak}: {memory}")
    finish(
        {
            "bench": "gateway",
            "photos_per_s": round(capacity, 1),
            "ratios": {name: ratio["median"] for name, ratio in ratios.items()},
            "spread": {name: [ratio["low"], ratio["high"]] for name, ratio in ratios.items()},
            "at_60_percent": {
                "p50_ms": round(at_60.percentile(50), 1),
                "p99_ms": round(at_60.percentile(99), 1),
            },
            "memory_mb": memory,
            "photo_kb": round(statistics.mean(len(photo) for photo in photos) / 1000),
        },
        as_json=arguments.json,
    )


def soak(
    gateway: psutil.Process,
    url: str,
    headers: dict[str, str],
    photos: list[bytes],
    arguments: argparse.Namespace,
) -> list[float]:
    """Resident memory of the gateway after each tenth of many submissions, MB."""
    found = []
    for _ in range(10):
        checked(
            send(
                url,
                photos[:1],
                headers=headers,
                requests=arguments.soak // 10,
                clients=arguments.clients,
            )
        )
        found.append(round(gateway.memory_info().rss / 1e6, 1))
    return found


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
