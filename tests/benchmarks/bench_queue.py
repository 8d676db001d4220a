"""What a photo costs in a long queue, and a claim beside a million finished photos.

    .venv/bin/python tests/benchmarks/bench_queue.py

First the real worker judges 100, 1,000 and 10,000 queued photos; the time for each photo should
stay the same. Then claims are timed in a table with few and with a million finished rows, and the
query plan is shown. The last line is JSON.
"""

import argparse
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import httpx
from load import checked, send
from measuring import finish, render_photos
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from deploy.local import LocalStack
from shared import claiming
from shared.scheduling import _TURNS

_FILL = text("""
INSERT INTO inspections (id, organisation_id, product_id, model_version_id, image_key,
  image_sha256, image_bytes, media_type, width, height, status, source)
SELECT 'old_' || number, organisation_id, product_id, model_version_id, 'k', 's', 1,
  'image/png', 900, 900, 'canceled', source
FROM inspections, generate_series(1, :rows) AS number
WHERE id = (SELECT min(id) FROM inspections)
""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="only the JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None)
        try:
            stack.start()
            database = create_engine(stack.database_url)
            drain(stack, database, 50)  # warms
            drains = {length: drain(stack, database, length) for length in arguments.lengths}
        finally:
            stack.stop()
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None, workers=0)
        try:
            stack.start()
            database = create_engine(stack.database_url)
            submit(stack, 400)
            with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE inspections"))
            few = claims(database)
            with database.begin() as connection:
                connection.execute(_FILL, {"rows": arguments.rows})
            with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text("VACUUM ANALYZE inspections"))
                connection.execute(text("CHECKPOINT"))  # or it would write beside the claims
            many = claims(database)
            plan = explain(database)
        finally:
            stack.stop()
    each = {length: seconds / length * 1000 for length, seconds in drains.items()}
    if not arguments.json:
        for length, ms in each.items():
            print(f"{length:7} queued photos: {ms:.1f} ms each")
        print(f"a claim: {few:.2f} ms, beside {arguments.rows} finished rows {many:.2f} ms")
        print(plan)
    finish(
        {
            "bench": "queue",
            "ms_each": {str(length): round(ms, 2) for length, ms in each.items()},
            "claim_ms": {"few_rows": round(few, 2), f"{arguments.rows}_rows": round(many, 2)},
            "ratios": {
                "longest_queue": round(each[max(each)] / each[min(each)], 2),
                "million_rows": round(many / few, 2),
            },
        },
        as_json=arguments.json,
    )


def submit(stack: LocalStack, count: int) -> None:
    checked(
        send(
            f"{stack.url}/v1/inspections",
            render_photos(8, ".jpg"),
            headers={"X-API-Key": stack.admin_key},
            requests=count,
            clients=8,
        )
    )


def drain(stack: LocalStack, database: Engine, count: int) -> float:
    """Seconds that the worker takes for so many photos, from when all of them are due."""
    # Not due until all are there.
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE inspections ALTER run_at SET DEFAULT now() + '1 day'"))
    submit(stack, count - 1)
    with database.begin() as connection:
        connection.execute(text("ALTER TABLE inspections ALTER run_at SET DEFAULT now()"))
        connection.execute(text("UPDATE inspections SET run_at = now() WHERE status = 'queued'"))
    photo = render_photos(1, ".jpg")[0]
    started = time.perf_counter()
    with httpx.Client(headers={"X-API-Key": stack.admin_key}) as http:  # the last one rings
        http.post(f"{stack.url}/v1/inspections", files={"file": photo}).raise_for_status()
    while True:
        with database.connect() as connection:
            left = connection.execute(
                text("SELECT count(*) FROM inspections WHERE status IN ('queued', 'running')")
            ).scalar_one()
        if not left:
            return time.perf_counter() - started
        time.sleep(0.02)


def claims(database: Engine, count: int = 100) -> float:
    """Median milliseconds of a claim of eight photos, which are put back each time."""
    times = []
    for _ in range(count):
        with Session(database) as session:
            started = time.perf_counter()
            batch = claiming.claim(session, limit=8, lease=timedelta(seconds=30), worker="bench")
            times.append((time.perf_counter() - started) * 1000)
            if batch is None:
                raise SystemExit("nothing was queued")
            session.rollback()
    return statistics.median(times)


def explain(database: Engine) -> str:
    with database.connect() as connection:
        rows = connection.execute(
            text("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) " + _TURNS.text),
            {"limit": 8, "candidates": 32, "after": "", "now": None},
        )
        return "\n".join(row[0] for row in rows)


if __name__ == "__main__":
    main()
