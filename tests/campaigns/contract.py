"""Requests made up from our own OpenAPI document, one by one and in sequences: what do they get?

    .venv/bin/python tests/campaigns/contract.py --seconds 300

The whole API by schemathesis, against the real stack with an engine that looks at nothing: no 5xx,
and every answer is of a status, a type and a schema that the document names. Exit code 1 otherwise.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sqlalchemy import create_engine, text

from deploy.local import LocalStack

HERE = Path(__file__).parent
_CHECKS = (
    *("not_a_server_error", "status_code_conformance", "content_type_conformance"),
    *("response_schema_conformance", "response_headers_conformance"),
)
_MADE = ("inspections", "batches", "uploads", "api_keys", "webhook_deliveries", "webhook_attempts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(
            Path(folder),
            host="127.0.0.1",
            port=0,
            tell=lambda _: None,
            settings={
                # It is the answers that count here, and 429 is one of few of them.
                "DEFECTSCOPE_REQUESTS_PER_SECOND": "100000",
                "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS": "127.0.0.0/8",
            },
            worker_command=[sys.executable, str(HERE / "standin_worker.py")],
        )
        try:
            stack.start()
            done = subprocess.run(
                [
                    *(str(Path(sys.executable).with_name("schemathesis")), "run"),
                    f"{stack.url}/openapi.json",
                    # Both: where it makes up one of them, the other would not count.
                    *("--header", f"Authorization: Bearer {stack.admin_key}"),
                    *("--header", f"X-API-Key: {stack.admin_key}"),
                    *("--checks", ",".join(_CHECKS)),
                    *("--max-time", str(arguments.seconds), "--seed", str(arguments.seed)),
                    *("--continue-on-failure", "--no-color", "--warnings", "off"),
                ],
                check=False,
                env={
                    **os.environ,
                    "SCHEMATHESIS_HOOKS": "contract_hooks",
                    "PYTHONPATH": str(HERE),
                    "CONTRACT_KEY_ID": f"key_{stack.admin_key.split('_')[1]}",
                },
            )
            with create_engine(stack.database_url).connect() as connection:
                made = {
                    table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()
                    for table in _MADE
                }
        finally:
            stack.stop()
    print(f"made: {made}")
    # What nothing was made of was not looked at either.
    sys.exit(done.returncode or not all(made.values()))


if __name__ == "__main__":
    main()
