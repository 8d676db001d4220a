"""The receivers that we give to integrators, held against the independent signer."""

import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from standardwebhooks import Webhook

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
OLD, SECRET = "whsec_b2xkLW9sZC1vbGQtb2xkLW9sZA==", "whsec_bmV3LW5ldy1uZXctbmV3LW5ldw=="
BODY = '{"type":"inspection.completed","lot":"L7"}'
COMMANDS = {
    "python": [sys.executable, str(EXAMPLES / "receiver.py"), SECRET, "0"],
    "node": ["node", str(EXAMPLES / "receiver.mjs"), SECRET, "0"],
    "listen": [
        str(Path(sys.executable).with_name("defectscope")),
        *("webhooks", "listen", "--secret", SECRET, "--port", "0"),
    ],
}


@pytest.fixture(params=COMMANDS)
def receiver(request):
    command = COMMANDS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    port = re.search(r"listening on port (\d+)", process.stdout.readline())[1]
    yield f"http://127.0.0.1:{port}/hook", process
    process.terminate()
    process.wait()
    process.stdout.close()


def test_a_sender_that_hangs_up_in_the_middle_ends_nothing(receiver):
    url, process = receiver
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port)) as connection:
        connection.sendall(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")

    assert httpx.post(url, content=BODY, headers=headers(SECRET)).status_code == 204
    assert process.poll() is None


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_secret_is_refused_at_the_start(name):
    command = ["whsec" if part == SECRET else part for part in COMMANDS[name]]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "listening" not in ended.stdout


def headers(*secrets, at=None):
    at = at or datetime.now(UTC)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(
            Webhook(secret).sign("msg_1", at, BODY) for secret in secrets
        ),
    }


def test_it_takes_what_is_ours_and_refuses_everything_else(receiver):
    url, process = receiver
    long_ago = datetime.now(UTC) - timedelta(minutes=6)

    def status(body=BODY, **given):
        return httpx.post(url, content=body, headers=given).status_code

    assert status(**headers(SECRET)) == 204
    assert status(**headers(OLD, SECRET)) == 204
    assert status(**headers(OLD)) == 401
    assert status(**headers(SECRET, at=long_ago)) == 401
    assert status(BODY.replace("L7", "L8"), **headers(SECRET)) == 401
    assert status() == 401
    assert status("x" * 30_000, **headers(SECRET)) == 413

    process.terminate()
    said = process.stdout.read()
    assert '"lot": "L7"' in said
    assert "msg_1 again" in said
    assert said.count("refused") == 4
