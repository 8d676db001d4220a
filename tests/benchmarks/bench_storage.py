"""A photo into S3 and back, against boto3 doing the same, in the same run.

    python tests/benchmarks/bench_storage.py

Both speak to one S3 server (moto, over HTTP). What counts is the processor time of whoever calls:
the gateway and the workers pay it for every photo. Rounds alternate. The last line is JSON.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import boto3
from botocore.config import Config
from load import await_port, free_port
from measuring import Rates, finish, render_photos, tell, tell_ratio

from shared.settings import Settings
from shared.storage.s3 import S3Storage

BUCKET = "bench"


def calls_per_second(call: Callable[[], object], count: int) -> float:
    """Of processor time, not of waiting."""
    started = time.process_time()
    for _ in range(count):
        call()
    return count / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, default=300, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()

    photo = render_photos(1, ".jpg")[0]
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    moto = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        await_port(port)
        ours = S3Storage(
            Settings(s3_endpoint_url=url, s3_access_key_id="bench", s3_secret_access_key="bench"),
            BUCKET,
        )
        ours.prepare()
        plain = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
            config=Config(s3={"addressing_style": "path"}),
        )

        def get_plainly() -> bytes:
            body: bytes = plain.get_object(Bucket=BUCKET, Key="photo.jpg")["Body"].read()
            return body

        contenders: dict[str, Callable[[], object]] = {
            "put": lambda: ours.put("photo.jpg", photo, "image/jpeg"),
            "put by boto3": lambda: plain.put_object(
                Bucket=BUCKET, Key="photo.jpg", Body=photo, ContentType="image/jpeg"
            ),
            "get": lambda: ours.get("photo.jpg"),
            "get by boto3": get_plainly,
        }
        seen: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(arguments.rounds + 1):
            for name, call in contenders.items():
                rate = calls_per_second(call, arguments.calls)
                if number:  # the first round warms
                    seen[name].append(rate)
    finally:
        moto.terminate()
        moto.wait()
    rates = {name: Rates(values) for name, values in seen.items()}
    ratios = {name: rates[name].over(rates[f"{name} by boto3"]) for name in ("put", "get")}
    if not arguments.json:
        for name, values in rates.items():
            tell(name, values, "calls per processor second")
        for name, ratio in ratios.items():
            tell_ratio(f"{name} against boto3", ratio)
    finish(
        {
            "bench": "storage",
            "ratios": {name: ratio["median"] for name, ratio in ratios.items()},
            "spread": {name: [ratio["low"], ratio["high"]] for name, ratio in ratios.items()},
            "photo_kb": round(len(photo) / 1000),
        },
        as_json=arguments.json,
    )


if __name__ == "__main__":
    main()
