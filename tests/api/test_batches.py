"""Many photos in one request."""

from dataclasses import replace

import pytest
from sqlalchemy import select

from shared.errors import StorageUnavailable
from shared.storage import storage
from shared.tables import Inspection, Scope


def send(api, *files, key=None, **fields):
    headers = {"Idempotency-Key": key} if key else {}
    parts = [("file", (f"{place}.png", data)) for place, data in enumerate(files)]
    return api.post("/v1/batches", files=parts, data=fields, headers=headers)


def test_many_photos_one_status(api, png, jpeg, judge_all):
    answer = send(api, png, jpeg, lot="L7")

    assert answer.status_code == 202
    body = answer.json()
    assert (body["accepted"], body["refused"]) == (2, 0)
    assert [item["name"] for item in body["items"]] == ["0.png", "1.png"]
    assert {item["inspection"]["batch_id"] for item in body["items"]} == {body["id"]}
    assert {item["inspection"]["part"]["lot"] for item in body["items"]} == {"L7"}
    status = api.get(body["urls"]["self"])
    assert status.headers["Retry-After"] == "2"
    assert (status.json()["total"], status.json()["by_status"]) == (2, {"queued": 2})
    assert status.json()["is_finished"] is False

    judge_all()

    status = api.get(answer.headers["Location"])
    assert status.json()["by_verdict"] == {"good": 2}
    assert status.json()["is_finished"] is True
    assert "Retry-After" not in status.headers
    listed = api.get(body["urls"]["inspections"]).json()["inspections"]
    assert {one["id"] for one in listed} == {item["inspection_id"] for item in body["items"]}


def test_a_file_that_is_refused_harms_no_other(api, png):
    body = send(api, png, b"no picture", png[:-20]).json()

    assert (body["accepted"], body["refused"]) == (1, 2)
    assert [item["error"] and item["error"]["code"] for item in body["items"]] == [
        None,
        "not_an_image",
        "unreadable_image",
    ]
    assert api.get(body["urls"]["self"]).json()["total"] == 1


def test_with_storage_away_none_is_accepted_and_the_sender_comes_again(api, png, db, monkeypatch):
    def away(*_):
        raise StorageUnavailable("The object storage cannot be reached.")

    with monkeypatch.context() as patch:
        patch.setattr(type(storage()), "put", away)
        answer = send(api, png, png, key="k")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert db.scalars(select(Inspection)).all() == []

    again = send(api, png, png, key="k")
    assert (again.status_code, again.json()["accepted"]) == (202, 2)


def test_the_name_of_a_file_is_told_back_whatever_it_is(api, png):
    """A form may claim a charset; an error after the photo was accepted would bring it again."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="%s.png"\r\n\r\n'
    tail = b"\r\n--x--\r\n"
    for name in (rb"\\ud800", rb"\\x00", b"..%2f..%2fadmin.key", b"<script>"):
        answer = api.post(
            "/v1/batches",
            content=head % name + png + tail,
            headers={"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"},
        )

        assert answer.status_code == 202, name
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.json()["accepted"] == 1


def test_a_photo_over_the_limit_is_refused_alone(api, png, db, monkeypatch):
    gateway = api.app.state.gateway
    small = gateway.settings.model_copy(update={"max_upload_bytes": len(png)})
    monkeypatch.setattr(api.app.state, "gateway", replace(gateway, settings=small))
    body = send(api, png, png + b"more").json()
    assert [item["error"] and item["error"]["code"] for item in body["items"]] == [
        None,
        "too_large",
    ]


def test_a_lot_comes_in_several_requests(api, png, jpeg):
    first = send(api, png).json()
    second = send(api, jpeg, batch_id=first["id"]).json()
    assert second["id"] == first["id"]
    assert api.get(first["urls"]["self"]).json()["total"] == 2
    assert send(api, png, batch_id="batch_unknown").status_code == 404


def test_photos_of_a_batch_wait_for_those_that_somebody_waits_for(api, png, jpeg, db):
    send(api, png)
    send(api, jpeg, priority="8")
    api.post("/v1/inspections", files={"file": png})
    db.expire_all()
    priorities = db.scalars(select(Inspection.priority).order_by(Inspection.created_at)).all()
    assert priorities == [2, 8, 5]


def test_the_same_batch_again_is_the_same_photos(api, png, jpeg, db):
    first = send(api, png, b"broken", key="lot-7").json()
    again = send(api, png, jpeg, key="lot-7").json()

    # What was refused then was not accepted, so it may come repaired.
    assert again["id"] == first["id"]
    assert again["items"][0]["inspection_id"] == first["items"][0]["inspection_id"]
    assert (again["accepted"], again["refused"]) == (2, 0)
    assert api.get(first["urls"]["self"]).json()["total"] == 2
    other = send(api, jpeg, key="lot-7").json()
    assert other["items"][0]["error"]["code"] == "idempotency_key_reused"


def test_the_same_photos_for_another_batch_are_another_submission(api, png, jpeg):
    """Told that they were accepted, the sender would wait for a batch that has none."""
    first, second = send(api, png).json()["id"], send(api, png).json()["id"]
    assert send(api, jpeg, key="lot-8", batch_id=first).json()["accepted"] == 1

    again = send(api, jpeg, key="lot-8", batch_id=second).json()
    assert again["items"][0]["error"]["code"] == "idempotency_key_reused"
    assert send(api, jpeg, key="lot-8", batch_id=first).json()["accepted"] == 1


def test_fields_that_nobody_filled_in_leave_a_batch_what_it_is(api, png):
    body = send(api, png, priority="", batch_id="", lot="").json()
    assert body["items"][0]["inspection"]["priority"] == 2


def test_a_store_that_is_away_is_not_asked_for_each_photo(api, png, monkeypatch):
    asked = []

    def away(*_):
        asked.append(1)
        raise StorageUnavailable("The object storage cannot be reached.")

    monkeypatch.setattr(type(storage()), "put", away)
    assert send(api, *[png] * 60).status_code == 503
    assert len(asked) <= 16


def test_batches_of_others_do_not_exist(api, app, png, new_key):
    mine = send(api, png).json()
    theirs = {"Authorization": f"Bearer {new_key(organisation_id='org_other')}"}
    assert app.get(mine["urls"]["self"], headers=theirs).status_code == 404
    answer = app.post(
        "/v1/batches", files={"file": png}, data={"batch_id": mine["id"]}, headers=theirs
    )
    assert answer.status_code in {404, 422}
    assert api.get(mine["urls"]["self"]).json()["total"] == 1
    assert api.get("/v1/batches/x").status_code == 404


@pytest.mark.parametrize(
    ("files", "code"),
    [([], "file_missing"), ([("file", ("x", b"x"))] * 101, "malformed_request")],
)
def test_forms_that_are_no_batch(api, files, code):
    answer = api.post("/v1/batches", files=files or {"other": b"x"})
    assert answer.status_code in {400, 422}
    assert answer.json()["code"] == code


def test_an_unknown_product_costs_no_object(api, png, monkeypatch):

    monkeypatch.setattr(type(storage()), "put", lambda *_: pytest.fail("stored"))
    answer = send(api, png, product="cable")
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_product")


def test_submitting_needs_the_scope(app, png, new_key):
    reader = {"Authorization": f"Bearer {new_key(Scope.READ)}"}
    assert app.post("/v1/batches", files={"file": png}, headers=reader).status_code == 403
