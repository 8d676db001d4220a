from shared.db import transaction
from shared.errors import StorageUnavailable
from shared.queue import redis_client
from shared.storage import storage
from shared.workers import report_alive


def test_the_process_answers(app):
    assert app.get("/healthz").json() == {"status": "alive"}


def test_ready_means_that_photos_are_accepted_and_judged(app):
    assert app.get("/readyz").json()["status"] == "degraded"
    with transaction() as session:
        report_alive(session, worker="worker:a", engine="")
        report_alive(session, worker="worker:a", engine="openvino-bf16")

    answer = app.get("/readyz")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": {"database": "ok", "storage": "ok", "queue": "ok"},
        "workers": 1,
        "engines": ["openvino-bf16"],
    }


def test_without_redis_photos_are_still_accepted(app, monkeypatch):
    def refuse(*_):
        raise ConnectionError

    monkeypatch.setattr(redis_client(), "ping", refuse)

    answer = app.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["checks"]["queue"].startswith("away")


def test_without_storage_it_is_not_ready_and_says_why(app, monkeypatch):
    def away(*_):
        raise StorageUnavailable("away")

    monkeypatch.setattr(type(storage()), "check", away)

    answer = app.get("/readyz")

    assert answer.status_code == 503
    assert answer.json()["checks"]["storage"] == "away: StorageUnavailable"
