"""Passwords in the settings of a service whose world is away: it says so, and not with them."""

import contextlib
import os
import signal
import subprocess
import sys

import httpx
import pytest

PASSWORDS = {kind: f"{kind}-{'s3cret' * 5}" for kind in ("database", "redis", "storage", "admin")}


@pytest.fixture
def environment(free_port):
    """Where nobody listens."""
    nowhere = f"127.0.0.1:{free_port}"
    own = {
        "DEFECTSCOPE_DATABASE_URL": f"postgresql+psycopg2://ds:{PASSWORDS['database']}@{nowhere}/ds",
        "DEFECTSCOPE_REDIS_URL": f"redis://:{PASSWORDS['redis']}@{nowhere}/0",
        "DEFECTSCOPE_STORAGE_URL": "s3://defectscope",
        "DEFECTSCOPE_S3_ENDPOINT_URL": f"http://{nowhere}",
        "DEFECTSCOPE_S3_ACCESS_KEY_ID": "ds",
        "DEFECTSCOPE_S3_SECRET_ACCESS_KEY": PASSWORDS["storage"],
        "DEFECTSCOPE_ADMIN_KEY": f"ds_0123456789abcdef_{PASSWORDS['admin']}",
        "DEFECTSCOPE_LOG_LEVEL": "debug",
    }
    usual = {name: of for name, of in os.environ.items() if not name.startswith("DEFECTSCOPE_")}
    return usual | own


def told(text):
    return [kind for kind, password in PASSWORDS.items() if password in text]


def test_an_api_whose_world_is_away_logs_that_and_no_password(
    environment, tmp_path, wait_until, unused_port
):
    log = tmp_path / "api.log"
    with log.open("wb") as file:
        api = subprocess.Popen(
            [sys.executable, "-m", "api.main"],
            env=environment | {"DEFECTSCOPE_PORT": str(unused_port)},
            stdout=file,
            stderr=file,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{unused_port}", timeout=30) as http:
                wait_until(lambda: is_up(http), "api", seconds=60)
                answers = [
                    http.get("/readyz"),
                    http.get("/v1/inspections", headers={"X-API-Key": "ds_01234567_" + "x" * 43}),
                    http.post("/login", data={"key": environment["DEFECTSCOPE_ADMIN_KEY"]}),
                ]
        finally:
            api.send_signal(signal.SIGTERM)
            api.wait(30)

    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert not [kind for answer in answers for kind in told(answer.text)]
    written = log.read_text()
    assert "unavailable" in written
    assert told(written) == []


@pytest.mark.parametrize("module", ["worker", "worker.deliver", "deploy.cli"])
def test_what_cannot_start_says_why_and_no_password(environment, module, tmp_path, wait_until):
    command = [sys.executable, "-m", module, *(["migrate"] if module == "deploy.cli" else [])]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
        )
    try:
        wait_until(log.read_text, "the first word")
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for its world
            process.wait(timeout=5)
    finally:
        process.kill()
        process.wait()

    assert told(log.read_text()) == []


def test_settings_that_cannot_be_read_are_not_told_back(environment):
    environment["DEFECTSCOPE_DATABASE_URL"] = f"postgres {PASSWORDS['database']}"
    environment["DEFECTSCOPE_REDIS_URL"] = f"rediss:/:{PASSWORDS['redis']}"
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "migrate"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert told(done.stdout + done.stderr) == []


def is_up(http):
    try:
        return http.get("/healthz").status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def unused_port(free_port):
    """Another one than nobody listens on."""
    return free_port + 1
