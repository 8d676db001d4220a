"""Webhooks over HTTP: what an integrator does to hear of verdicts."""

import json
from dataclasses import replace

import jsonschema
import pytest
from sqlalchemy import select, update

from shared import claiming, deliveries, delivering, inspections, webhook_events
from shared.db import transaction
from shared.delivering import Attempt
from shared.errors import DatabaseUnavailable
from shared.inspections import Failure
from shared.settings import get_settings
from shared.tables import Inspection
from shared.verdicts import ReviewReason
from shared.webhook_tables import WebhookDelivery

URL = "https://93.184.216.34/hook"


@pytest.fixture
def create(api):
    def create(**body):
        answer = api.post("/v1/webhooks", json={"url": URL, **body})
        assert answer.status_code == 201, answer.text
        return answer.json()

    return create


def test_the_secret_is_shown_once(api, create):
    made = create(description="the MES of hall 3", filter={"lines": ["L2"]})
    (shown,) = api.get("/v1/webhooks").json()["webhooks"]

    assert made["secret"].startswith("whsec_")
    assert "secret" not in shown
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert shown == api.get(f"/v1/webhooks/{made['id']}").json()
    assert shown["status"] == "active"
    assert shown["events"] == ["inspection.completed", "inspection.failed", "review.decided"]
    assert shown["filter"]["lines"] == ["L2"]


def test_changing_it_keeps_its_secret_and_its_status(api, create):
    made = create()
    path = f"/v1/webhooks/{made['id']}"
    api.post(f"{path}/pause")
    changed = api.put(path, json={"url": URL + "/2", "events": ["inspection.failed"]}).json()

    assert (changed["url"], changed["events"]) == (URL + "/2", ["inspection.failed"])
    assert changed["status"] == "paused"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"url": "https://127.0.0.1/"}, "address_refused", "url"),
        ({"url": "https://169.254.169.254/latest/meta-data/"}, "address_refused", "url"),
        ({"url": "http://93.184.216.34/"}, "address_refused", "url"),
        ({"url": "ftp://93.184.216.34/"}, "address_refused", "url"),
        ({"url": URL, "events": []}, "invalid_input", "events"),
        ({"url": URL, "events": ["webhook.test"]}, "invalid_input", "events.0"),
        ({"url": URL, "filter": {"plant": ["x"]}}, "invalid_input", "filter.plant"),
        ({"url": URL, "filter": {"lines": ["\0"]}}, "invalid_input", "filter.lines.0"),
        ({}, "invalid_input", "url"),
    ],
)
def test_what_cannot_be_is_refused_and_says_why(api, body, code, field):
    answer = api.post("/v1/webhooks", json=body)

    assert answer.status_code == 422
    assert (answer.json()["code"], answer.json()["field"]) == (code, field)
    assert api.get("/v1/webhooks").json()["webhooks"] == []


def test_a_private_network_is_open_once_the_operator_names_it(api, monkeypatch):
    refused = api.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"})
    assert "DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS" in refused.json()["detail"]

    allowing = get_settings().model_copy(update={"webhook_allowed_cidrs": "127.0.0.0/8"})
    state = api.app.state
    monkeypatch.setattr(state, "gateway", replace(state.gateway, settings=allowing))
    assert api.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).status_code == 201


def test_a_rotation_gives_a_new_secret(api, create):
    made = create()
    rotated = api.post(f"/v1/webhooks/{made['id']}/rotate").json()

    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_until"] is not None


def test_pause_and_resume(api, create):
    path = f"/v1/webhooks/{create()['id']}"

    paused = api.post(f"{path}/pause").json()
    assert (paused["status"], paused["status_reason"]) == ("paused", "paused on request")
    assert api.post(f"{path}/resume").json()["status"] == "active"
    actions = [entry["action"] for entry in api.get("/v1/audit").json()["entries"]]
    assert actions[:3] == ["webhook.resumed", "webhook.paused", "webhook.created"]


def test_a_deleted_endpoint_is_gone_with_its_deliveries(api, create, db):
    path = f"/v1/webhooks/{create()['id']}"
    delivery = api.post(f"{path}/test").json()

    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.get(f"/v1/deliveries/{delivery['id']}").status_code == 404
    assert db.scalars(select(WebhookDelivery)).all() == []


def test_a_deletion_that_broke_off_leaves_it_disabled_and_can_be_repeated(api, create, monkeypatch):
    path = f"/v1/webhooks/{create()['id']}"

    def break_off(*_):
        raise DatabaseUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(deliveries, "forget_some", break_off)
        assert api.delete(path).status_code == 503
    assert api.get(path).json()["status"] == "disabled"

    assert api.delete(path).status_code == 204
    assert api.get(path).status_code == 404


def send(status_code, reply):
    """As a deliverer would, without a receiver."""
    with transaction() as session:
        (leased,) = delivering.lease(session, limit=1, duration=get_settings().lease)
        for due in delivering.due(session, leased, limit=100).messages:
            attempt = Attempt(
                *(due.id, due.run_at, due.created_at),
                latency_ms=12,
                status_code=status_code,
                reply=reply,
            )
            delivering.settle(
                session, leased, [attempt], duration=get_settings().lease, is_all=False
            )
        delivering.release(session, leased)


def test_deliveries_tell_how_each_attempt_went_and_can_be_sent_again(api, create, png, judge_all):
    endpoint = create()["id"]
    id_ = api.post("/v1/inspections", files={"file": png}).json()["id"]
    judge_all()
    send(503, "we are closed")
    (shown,) = api.get(f"/v1/webhooks/{endpoint}/deliveries").json()["deliveries"]

    assert (shown["inspection_id"], shown["event"]) == (id_, "inspection.completed")
    assert (shown["status"], shown["attempts"]) == ("pending", 1)
    assert shown["next_attempt_at"] is not None
    (entry,) = shown["log"]
    assert (entry["status_code"], entry["reply"], entry["latency_ms"]) == (503, "we are closed", 12)

    again = api.post(f"/v1/deliveries/{shown['id']}/redeliver").json()
    assert (again["id"], again["attempts"], len(again["log"])) == (shown["id"], 0, 1)
    send(200, "")
    assert api.get(f"/v1/deliveries/{shown['id']}").json()["status"] == "delivered"
    page = api.get(f"/v1/webhooks/{endpoint}/deliveries", params={"status": "pending"}).json()
    assert page["deliveries"] == []


def test_deliveries_come_page_by_page_newest_first(api, create):
    path = f"/v1/webhooks/{create()['id']}"
    sent = [api.post(f"{path}/test").json()["id"] for _ in range(3)]

    first = api.get(f"{path}/deliveries", params={"page_size": 2}).json()
    rest = api.get(
        f"{path}/deliveries", params={"page_size": 2, "page_token": first["next_page_token"]}
    ).json()
    listed = [one["id"] for one in first["deliveries"] + rest["deliveries"]]
    assert sorted(listed) == sorted(sent)
    assert listed == sorted(listed, reverse=True)
    assert rest["next_page_token"] == ""


def test_a_replay_has_to_say_of_what(api, create, png, judge_all):
    path = f"/v1/webhooks/{create()['id']}"
    api.post("/v1/inspections", files={"file": png}, data={"lot": "L9"})
    judge_all()

    assert api.post(f"{path}/replay", json={}).status_code == 422
    assert api.post(f"{path}/replay", json={"lot": "L9"}).json() == {"deliveries": 1}
    assert api.post(f"{path}/replay", json={"lot": "other"}).json() == {"deliveries": 0}


def test_the_openapi_document_has_what_we_send(api):
    webhooks = api.get("/openapi.json").json()["webhooks"]

    assert set(webhooks) == {
        *("inspection.completed", "inspection.failed", "review.decided"),
        "webhook.test",
    }
    schema = webhooks["inspection.completed"]["post"]["requestBody"]["content"]["application/json"]
    assert schema["schema"] == {"$ref": "#/components/schemas/InspectionEvent"}


def test_each_message_is_what_the_openapi_document_says(api, create, png, judge_all):
    """The JSON Schema that an integrator reads, against what is sent."""
    path = f"/v1/webhooks/{create()['id']}"
    held, failed = (api.post("/v1/inspections", files={"file": png}).json()["id"] for _ in "12")
    with transaction() as session:
        batch = claiming.claim(session, limit=2, lease=get_settings().lease, worker="worker:test")
        failure = Failure(failed, "unreadable_image", "Send it again.")
        inspections.fail(session, token=batch.token, failures=[failure], worker="worker:test")
        session.execute(
            update(Inspection)
            .where(Inspection.id == held)
            .values(status="queued", lease_token=None, lease_until=None)
        )
    judge_all(0.33, (ReviewReason.NEAR_THRESHOLD,))
    (review,) = (
        one for one in api.get("/v1/reviews").json()["reviews"] if one["inspection_id"] == held
    )
    lease_token = api.post(f"/v1/reviews/{review['id']}/claim").json()["lease_token"]
    decision = {"lease_token": lease_token, "verdict": "defective", "defect_type": "other"}
    assert api.post(f"/v1/reviews/{review['id']}/decision", json=decision).is_success
    api.post(f"{path}/test")

    with transaction() as session:
        (leased,) = delivering.lease(session, limit=1, duration=get_settings().lease)
        sent = {
            due.event.value: json.loads(webhook_events.body(due, "https://inspection.plant"))
            for due in delivering.due(session, leased, limit=100).messages
        }
    document = api.get("/openapi.json").json()
    assert set(sent) == set(document["webhooks"])
    for event, message in sent.items():
        assert message["type"] == event
        content = document["webhooks"][event]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"] | {"components": document["components"]}
        jsonschema.validate(message, schema)
        # And the schema is one that says no.
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(message | {"type": "something.else"}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"type": event}, schema)
