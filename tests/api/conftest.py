"""The gateway in this process, over its real parts; only the worker is absent."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from shared import claiming, inspections, keys
from shared.db import transaction
from shared.inspections import Recorded
from shared.settings import get_settings
from shared.storage import storage
from shared.tables import Organisation, Scope
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict


@pytest.fixture
def new_key(organisation: str) -> Callable[..., str]:
    def make(*scopes: Scope, organisation_id: str = organisation) -> str:
        with transaction() as session:
            if session.get(Organisation, organisation_id) is None:
                session.add(Organisation(id=organisation_id, name=organisation_id))
                session.flush()
            _, key = keys.create_key(
                session,
                organisation_id=organisation_id,
                name="test",
                scopes=frozenset(scopes or {Scope.ADMIN}),
                actor="test",
            )
        return key

    return make


@pytest.fixture
def app(services: None) -> Iterator[TestClient]:
    """The app without a key."""
    from api import acceptance, auth
    from api.main import make_app

    get_settings.cache_clear()
    # What this process remembers of other tests' tables.
    auth._remembered.clear()
    acceptance._known.clear()
    with TestClient(make_app(), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.fixture
def api(app: TestClient, new_key: Callable[..., str]) -> TestClient:
    """The app with an admin key of the organisation."""
    app.headers["Authorization"] = f"Bearer {new_key()}"
    return app


@pytest.fixture
def judge_all() -> Callable[..., list[str]]:
    """What a worker does with everything that is queued, without models."""

    def judge(probability: float = 0.1, reasons: tuple[ReviewReason, ...] = ()) -> list[str]:
        from datetime import timedelta

        with transaction() as session:
            batch = claiming.claim(
                session, limit=100, lease=timedelta(seconds=30), worker="worker:test"
            )
        assert batch is not None
        results = []
        for one in batch.inspections:
            overlay, anomaly_map = f"maps/{one.id}-o.jpg", f"maps/{one.id}-a.jpg"
            storage().put(overlay, b"\xff\xd8 overlay", "image/jpeg")
            storage().put(anomaly_map, b"\xff\xd8 map", "image/jpeg")
            is_defective = probability >= 0.336
            disposition = Disposition.REJECT if is_defective else Disposition.PASS
            outcome = Outcome(
                Verdict.DEFECTIVE if is_defective else Verdict.GOOD,
                Disposition.HOLD if reasons else disposition,
                reasons,
                is_defective,
                False,
                True,
            )
            timings = {"queued": 3, "fetch": 4, "decode": 9, "infer": 124, "record": 5}
            scores = Scores(probability, 0.0021, 3.1, 31.0, ())
            results.append(
                Recorded(
                    one.id, scores, outcome, "torch-cpu", overlay, anomaly_map, REGIONS, timings
                )
            )
        with transaction() as session:
            inspections.record(session, token=batch.token, results=results, worker="worker:test")
        return [one.id for one in batch.inspections]

    return judge


REGIONS = [[[0.25, 0.25], [0.5, 0.25], [0.5, 0.5]]]


def noise(width: int = 200, height: int = 160, kind: str = "PNG", seed: int = 0) -> bytes:
    """A photo of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def png() -> bytes:
    return noise()


@pytest.fixture
def jpeg() -> bytes:
    return noise(kind="JPEG")


@pytest.fixture
def photo() -> Callable[..., bytes]:
    return noise
