"""Bytes that do not pass the gateway, and where they must."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text

from shared import uploads
from shared.db import transaction
from shared.storage import storage
from shared.tables import Inspection, Upload


def begin(api, data, media_type="image/png", **changes):
    announced = {
        "media_type": media_type,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **changes,
    }
    return api.post("/v1/uploads", json=announced)


@pytest.fixture
def uploaded(api, png):
    """Id of an upload whose file is in storage."""
    begun = begin(api, png)
    assert begun.status_code == 201
    put = api.put(begun.json()["url"], content=png, headers=begun.json()["headers"])
    assert put.status_code == 204
    return begun.json()["upload_id"]


def test_announce_put_submit(api, png, uploaded, judge_all):
    answer = api.post(
        "/v1/inspections",
        json={"upload_id": uploaded, "lot": "L7", "metadata": {"shift": "early"}},
    )

    assert answer.status_code == 202
    body = answer.json()
    assert (body["part"]["lot"], body["metadata"]) == ("L7", {"shift": "early"})
    image = body["image"]
    assert image["sha256"] == f"sha256:{hashlib.sha256(png).hexdigest()}"
    assert (image["width"], image["height"], image["bytes"]) == (200, 160, len(png))
    assert api.get(image["url"]).content == png
    judge_all()
    assert api.get(answer.headers["Location"]).json()["status"] == "succeeded"


def test_an_upload_is_submitted_once(api, uploaded, db):
    first = api.post("/v1/inspections", json={"upload_id": uploaded})
    again = api.post("/v1/inspections", json={"upload_id": uploaded})
    assert (again.status_code, again.json()["code"]) == (409, "upload_used")
    assert first.json()["id"] in again.json()["detail"]
    assert db.scalar(select(func.count()).select_from(Inspection)) == 1


def test_with_an_idempotency_key_the_second_submission_is_the_first(api, uploaded):
    headers = {"Idempotency-Key": "k"}
    first, again = (
        api.post("/v1/inspections", json={"upload_id": uploaded}, headers=headers) for _ in range(2)
    )
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"


def test_one_upload_submitted_many_times_at_once_with_one_key_is_one_inspection(api, uploaded, db):
    def submit(_):
        return api.post(
            "/v1/inspections", json={"upload_id": uploaded}, headers={"Idempotency-Key": "k"}
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(16)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert db.scalar(select(func.count()).select_from(Inspection)) == 1


def test_nothing_put_yet_is_told_and_can_still_be_put(api, png):
    begun = begin(api, png).json()
    early = api.post("/v1/inspections", json={"upload_id": begun["upload_id"]})
    assert (early.status_code, early.json()["code"]) == (409, "upload_missing")
    api.put(begun["url"], content=png, headers=begun["headers"])
    late = api.post("/v1/inspections", json={"upload_id": begun["upload_id"]})
    assert late.status_code == 202


def test_other_bytes_than_announced_are_refused(api, png):
    begun = begin(api, png).json()
    for other in (png + b"x", bytes(len(png))):
        refused = api.put(begun["url"], content=other, headers=begun["headers"])
        assert (refused.status_code, refused.json()["code"]) == (422, "upload_differs")
    assert api.post("/v1/inspections", json={"upload_id": begun["upload_id"]}).status_code == 409


def test_what_a_store_took_although_it_differs_is_noticed(api, png, jpeg, db):
    """Stores that do not check what they were told about a link."""
    begun = begin(api, png).json()
    key = db.scalars(select(Upload.key)).one()
    storage().put(key, jpeg, "image/png")
    answer = api.post("/v1/inspections", json={"upload_id": begun["upload_id"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_differs")
    storage().put(key, b"no picture at all", "image/png")
    answer = api.post("/v1/inspections", json={"upload_id": begun["upload_id"]})
    assert (answer.status_code, answer.json()["code"]) == (415, "not_an_image")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"bytes": 11_000_000_000}, 413),
        ({"bytes": 0}, 422),
        ({"media_type": "image/gif"}, 422),
        ({"sha256": "x"}, 422),
        ({"key": "images/other"}, 422),
    ],
)
def test_announcements_that_are_refused(api, png, changes, status):
    assert begin(api, png, **changes).status_code == status


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"upload_id": 7}', b"{", b"[" * 20_000])
def test_json_that_is_no_submission(api, body):
    answer = api.post("/v1/inspections", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}


def test_uploads_of_others_do_not_exist(api, app, uploaded, new_key):
    theirs = {"Authorization": f"Bearer {new_key(organisation_id='org_other')}"}
    assert app.put(f"/v1/uploads/{uploaded}", content=b"x", headers=theirs).status_code == 404


def test_what_nobody_submitted_is_forgotten_with_its_file(api, uploaded, png, db):
    kept = begin(api, png).json()["upload_id"]
    key = db.get_one(Upload, uploaded).key
    with transaction() as session:
        session.execute(
            text("UPDATE uploads SET expires_at = now() - interval '3 hours' WHERE id = :id"),
            {"id": uploaded},
        )
    with transaction() as session:
        expired = uploads.find_expired(session, limit=10)
        assert expired == {uploaded: key}
        uploads.forget(session, expired)
    assert api.post("/v1/inspections", json={"upload_id": uploaded}).status_code == 404
    db.expire_all()
    assert db.scalars(select(Upload.id)).all() == [kept]
