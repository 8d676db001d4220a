import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from shared.errors import DatabaseUnavailable, StorageUnavailable
from shared.queue import QUEUE, redis_client, tell_finished
from shared.storage import storage
from shared.tables import Inspection
from shared.verdicts import ReviewReason


def submit(api, data, name="part.png", **fields):
    headers = fields.pop("headers", {})
    return api.post("/v1/inspections", files={"file": (name, data)}, data=fields, headers=headers)


def count(db):
    return db.scalar(select(func.count()).select_from(Inspection))


def test_a_photo_is_accepted_with_its_row_and_its_original(api, db, png):
    answer = submit(
        api,
        png,
        product="bottle",
        serial="SN1",
        lot="L7",
        line="L2",
        station="cam1",
        captured_at="2026-03-02T12:00:00+01:00",
        metadata='{"shift": "early", "nested": {"a": [1, 2.5, null]}}',
        priority="7",
    )

    assert answer.status_code == 202
    document = answer.json()
    assert answer.headers["Location"] == f"http://testserver/v1/inspections/{document['id']}"
    assert answer.headers["Retry-After"] == "1"
    assert document["status"] == "queued"
    assert document["part"] == {"serial": "SN1", "lot": "L7", "line": "L2", "station": "cam1"}
    assert datetime.fromisoformat(document["captured_at"]) == datetime(2026, 3, 2, 11, tzinfo=UTC)
    assert document["metadata"] == {"shift": "early", "nested": {"a": [1, 2.5, None]}}
    assert document["image"]["sha256"] == f"sha256:{hashlib.sha256(png).hexdigest()}"
    assert (document["image"]["width"], document["image"]["height"]) == (200, 160)
    assert document["verdict"] is None
    row = db.scalars(select(Inspection)).one()
    assert row.priority == 7
    assert storage().get(row.image_key) == png


def test_a_raw_body_is_a_photo_and_the_query_its_fields(api, jpeg):
    answer = api.post(
        "/v1/inspections",
        params={"product": "bottle", "serial": "SN2"},
        content=jpeg,
        headers={"Content-Type": "image/jpeg"},
    )

    assert answer.status_code == 202
    assert answer.json()["part"]["serial"] == "SN2"
    assert answer.json()["image"]["media_type"] == "image/jpeg"


def test_the_content_decides_and_not_the_name(api, jpeg, png):
    assert submit(api, jpeg, name="photo.png").json()["image"]["media_type"] == "image/jpeg"
    assert submit(api, b"GIF89a not a photo", name="photo.jpg").status_code == 415


def test_a_bell_is_rung_after_the_commit(api, png, wait_until):
    submit(api, png)

    wait_until(lambda: redis_client().llen(QUEUE) == 1, "a bell")


def test_the_verdict_is_in_the_document_when_it_is_judged(api, png, judge_all):
    id_ = submit(api, png).json()["id"]
    judge_all(probability=0.41, reasons=(ReviewReason.MODEL_DISAGREEMENT,))

    answer = api.get(f"/v1/inspections/{id_}")

    document = answer.json()
    assert "Retry-After" not in answer.headers
    assert document["status"] == "succeeded"
    assert document["verdict"] == "defective"
    assert document["disposition"] == "hold"
    assert document["needs_review"] is True
    assert document["review_reasons"] == ["model_disagreement"]
    assert document["review"]["status"] == "open"
    assert document["classifier"] == {
        "defect_probability": 0.41,
        "threshold": 0.336,
        "defective": True,
    }
    assert document["autoencoder"] == {
        "mse": 0.0021,
        "anomaly_score": 3.1,
        "threshold": 4.0,
        "anomalous": False,
        "regions": [[[0.25, 0.25], [0.5, 0.25], [0.5, 0.5]]],
    }
    assert document["model_verdict"] == "defective"
    assert document["domain"] == {"distance": 31.0, "limit": 50.0, "in_domain": True}
    assert document["model"]["version"] == 1
    assert document["timings_ms"]["infer"] == 124
    assert document["overlay_url"] == f"http://testserver/v1/inspections/{id_}/overlay"


def test_pictures_are_streamed_where_storage_is_local(api, png, judge_all):
    id_ = submit(api, png).json()["id"]
    judge_all()

    for kind, body, media_type in (
        ("image", png, "image/png"),
        ("overlay", b"\xff\xd8 overlay", "image/jpeg"),
        ("anomaly-map", b"\xff\xd8 map", "image/jpeg"),
    ):
        answer = api.get(f"/v1/inspections/{id_}/{kind}")
        assert answer.content == body
        assert answer.headers["Content-Type"] == media_type
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_picture_that_is_not_made_yet_is_a_404_that_says_why(api, png):
    id_ = submit(api, png).json()["id"]

    answer = api.get(f"/v1/inspections/{id_}/overlay")

    assert answer.status_code == 404
    assert answer.json()["code"] == "no_picture"
    assert "queued" in answer.json()["detail"]


def test_history_tells_who_changed_it_and_when(api, png, judge_all):
    id_ = submit(api, png).json()["id"]
    judge_all()

    history = api.get(f"/v1/inspections/{id_}/history").json()["history"]

    assert [entry["event"] for entry in history] == ["accepted", "claimed", "succeeded"]
    assert history[0]["actor"].startswith("key_")
    assert history[2]["actor"] == "worker:test"


def test_waiting_ends_with_the_verdict(api, png, judge_all):
    done = threading.Event()

    def work():
        while not done.is_set():
            try:
                ids = judge_all()
            except AssertionError:  # nothing is queued yet
                continue
            tell_finished(ids)
            return

    worker = threading.Thread(target=work)
    worker.start()
    answer = submit(api, png, headers={"Prefer": "respond-async, wait=20"})
    done.set()
    worker.join()

    assert answer.status_code == 200
    assert answer.json()["status"] == "succeeded"


def test_a_lost_wake_up_costs_time_and_not_the_verdict(api, png, judge_all):
    id_ = submit(api, png).json()["id"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.get, f"/v1/inspections/{id_}", params={"wait": 20})
        judge_all()  # and nobody is told

        assert waiting.result().json()["status"] == "succeeded"


def test_a_wait_that_is_too_short_answers_what_there_is(api, png):
    answer = submit(api, png, headers={"Prefer": "wait=1"})

    assert answer.status_code == 202
    assert answer.json()["status"] == "queued"


def test_cancel_once_twice_and_too_late(api, png, judge_all):
    first, second = (submit(api, png).json()["id"] for _ in range(2))

    assert api.post(f"/v1/inspections/{first}/cancel").json()["status"] == "canceled"
    assert api.post(f"/v1/inspections/{first}/cancel").status_code == 200
    judge_all()
    late = api.post(f"/v1/inspections/{second}/cancel")
    assert late.status_code == 409
    assert late.json()["code"] == "already_finished"


def test_lists_are_newest_first_and_pages_join_without_gap(api, png):
    ids = [submit(api, png, serial=f"SN{n}").json()["id"] for n in range(5)]

    seen, token = [], ""
    while True:
        page = api.get("/v1/inspections", params={"page_size": 2, "page_token": token}).json()
        seen += [one["id"] for one in page["inspections"]]
        token = page["next_page_token"]
        if not token:
            break

    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"serial": "SN1"}, ["SN1"]),
        ({"lot": "L1"}, ["SN2", "SN1"]),
        ({"lot": "L1", "station": "cam2"}, ["SN2"]),
        ({"status": "queued"}, ["SN3", "SN2", "SN1"]),
        ({"status": "failed"}, []),
        ({"verdict": "good"}, []),
        ({"product": "bottle"}, ["SN3", "SN2", "SN1"]),
        ({"product": "cable"}, []),
        ({"until": "2020-01-01T00:00:00Z"}, []),
        ({"since": "2020-01-01T00:00:00Z"}, ["SN3", "SN2", "SN1"]),
    ],
)
def test_all_given_filters_must_match(api, png, query, expected):
    submit(api, png, serial="SN1", lot="L1", station="cam1")
    submit(api, png, serial="SN2", lot="L1", station="cam2")
    submit(api, png, serial="SN3", lot="L2")

    page = api.get("/v1/inspections", params=query).json()

    assert [one["part"]["serial"] for one in page["inspections"]] == expected


def test_a_replayed_submission_is_one_inspection(api, db, png):
    headers = {"Idempotency-Key": "station-1-shot-77"}

    first = submit(api, png, serial="SN1", headers=headers)
    second = submit(api, png, serial="SN1", headers=headers)

    assert second.json()["id"] == first.json()["id"]
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert count(db) == 1


def test_a_key_with_another_payload_is_refused(api, png, jpeg):
    headers = {"Idempotency-Key": "k1"}
    submit(api, png, headers=headers)

    for data, fields in ((jpeg, {}), (png, {"serial": "other"})):
        answer = submit(api, data, headers=headers, **fields)
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_key_reused"


def test_a_hundred_submissions_at_once_with_one_key_are_one_inspection(api, db, png):
    headers = {"Idempotency-Key": "all-at-once"}
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: submit(api, png, headers=headers), range(100)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count(db) == 1


def test_an_idempotency_key_belongs_to_its_api_key(api, db, png, new_key):
    headers = {"Idempotency-Key": "same"}
    submit(api, png, headers=headers)
    submit(api, png, headers={**headers, "Authorization": f"Bearer {new_key()}"})

    assert count(db) == 2


def test_without_storage_there_is_no_row(api, db, png, monkeypatch):
    def away(*_):
        raise StorageUnavailable("The object storage cannot be reached.")

    monkeypatch.setattr(type(storage()), "put", away)

    answer = submit(api, png)

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "2"
    assert answer.json()["code"] == "storage_unavailable"
    assert count(db) == 0


def test_without_a_commit_there_is_no_202(api, db, png, monkeypatch):
    from api import acceptance

    def dies(*_, **__):
        raise DatabaseUnavailable("The database cannot be reached; try again shortly.")

    monkeypatch.setattr(acceptance, "accept", dies)

    answer = submit(api, png)

    assert answer.status_code == 503
    assert answer.json()["code"] == "database_unavailable"
    assert count(db) == 0
