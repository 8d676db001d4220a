from shared.db import transaction
from shared.errors import StorageUnavailable
from shared.queue import redis_client
from shared.storage import storage
from shared.workers import report_alive, report_gone


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
        "deliverer": "not_needed",
    }


def test_webhooks_without_a_deliverer_wait_and_it_says_so(app, api):
    with transaction() as session:
        report_alive(session, worker="worker:a", engine="torch-cpu")
    made = api.post("/v1/webhooks", json={"url": "https://93.184.216.34/hook"}).json()

    def said():
        answer = app.get("/readyz")
        return answer.status_code, answer.json()["status"], answer.json()["deliverer"]

    assert said() == (200, "degraded", "away")
    with transaction() as session:
        report_alive(session, worker="deliverer:a-1")
    assert said() == (200, "ready", "ok")
    # A deliverer judges nothing.
    assert app.get("/readyz").json()["workers"] == 1

    with transaction() as session:
        report_gone(session, worker="deliverer:a-1")
    api.post(f"/v1/webhooks/{made['id']}/pause")
    assert said() == (200, "ready", "not_needed")


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
