"""The client against the real gateway, and against a gateway that misbehaves."""

import time

import httpx
import pytest

from api.client import DefectScope, DefectScopeApiError, DefectScopeUnreachable
from shared import products
from shared.db import transaction
from shared.inspection_document import INSPECTION_EXAMPLE


class ThroughTheApp(httpx.BaseTransport):
    """Carries the client's requests to the app in this process."""

    def __init__(self, app):
        self._app = app

    def handle_request(self, request):
        answer = self._app.request(
            request.method,
            str(request.url.copy_with(scheme="http", host="testserver", port=None)),
            content=request.read(),
            headers=dict(request.headers),
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def scope(app, new_key):
    with DefectScope("http://testserver", new_key(), transport=ThroughTheApp(app)) as scope:
        yield scope


def answering(*answers):
    """A service that gives these answers in turn, and the requests that it got."""
    requests, left = [], list(answers)

    def handle(request):
        request.read()
        requests.append(request)
        answer = left.pop(0) if left else httpx.Response(200, json=INSPECTION_EXAMPLE)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return requests, httpx.MockTransport(handle)


def test_a_key_from_a_file_ends_with_a_newline_and_what_is_none_is_not_told(capsys):
    requests, transport = answering()
    DefectScope("http://test", "ds_key_secret\r\n", transport=transport).get("insp_1")
    assert requests[0].headers["Authorization"] == "Bearer ds_key_secret"

    with pytest.raises(ValueError, match="characters") as raised:
        DefectScope("http://test", "ds_key\n_secret")
    assert "secret" not in str(raised.value)


def test_a_redirect_is_no_success():
    """Else a key that was not revoked would be called revoked."""
    moved = httpx.Response(308, headers={"Location": "https://scope.plant/v1"})
    _, transport = answering(moved)
    with pytest.raises(DefectScopeApiError, match=r"https://scope\.plant/v1: use that"):
        DefectScope("http://test", "key", transport=transport).revoke_key("key_1")


def test_submit_poll_and_picture(scope, png, judge_all):
    submitted = scope.submit(png, product="bottle", serial="SN1", metadata={"shift": "late"})
    assert not submitted.is_finished
    judge_all(probability=0.9)

    inspection = scope.wait(submitted.id, timeout_seconds=5)

    assert inspection.verdict == "defective"
    assert inspection.disposition == "reject"
    assert inspection.defect_probability == 0.9
    assert inspection.document["metadata"] == {"shift": "late"}
    assert scope.picture(inspection.id) == b"\xff\xd8 overlay"
    assert [one.id for one in scope.inspections(serial="SN1", page_size=1)] == [inspection.id]


def test_a_refusal_is_an_error_with_the_code_of_the_problem(scope):
    with pytest.raises(DefectScopeApiError) as refused:
        scope.submit(b"not an image")

    assert refused.value.status == 415
    assert refused.value.code == "not_an_image"


def test_canceling(scope, png):
    assert scope.cancel(scope.submit(png).id).status == "canceled"


def test_waiting_has_an_end(scope, png):
    with pytest.raises(TimeoutError, match="still queued"):
        scope.wait(scope.submit(png).id, timeout_seconds=0)


def test_a_retry_carries_the_same_idempotency_key(png):
    requests, transport = answering(
        httpx.ConnectError("refused"),
        httpx.Response(503, json={"code": "storage_unavailable", "detail": "away"}),
    )
    pauses = []
    scope = DefectScope("http://scope", "ds_x", transport=transport, sleep=pauses.append)

    scope.submit(png)

    assert len(requests) == 3
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1
    assert len(pauses) == 2


def test_retry_after_is_honoured():
    requests, transport = answering(httpx.Response(429, headers={"Retry-After": "7"}, text="busy"))
    pauses = []
    scope = DefectScope("http://scope", "ds_x", transport=transport, sleep=pauses.append)

    scope.get("insp_1")

    assert len(requests) == 2
    assert pauses[0] >= 7


def test_a_maintenance_page_does_not_hold_up_a_line_for_an_hour():
    _, transport = answering(httpx.Response(503, headers={"Retry-After": "3600"}, text="later"))
    pauses = []
    scope = DefectScope("http://scope", "ds_x", transport=transport, sleep=pauses.append)

    scope.get("insp_1")

    assert pauses == [60]


def test_the_time_that_was_given_holds_also_while_the_service_is_away(png):
    """A part lies at the station meanwhile."""
    requests, transport = answering(*[httpx.ConnectError("refused")] * 99)
    scope = DefectScope("http://scope", "ds_x", attempts=99, transport=transport)

    started = time.monotonic()
    with pytest.raises(TimeoutError, match="refused"):
        scope.inspect(png, timeout_seconds=1)

    assert time.monotonic() - started < 5
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1
    assert all(request.extensions["timeout"]["read"] <= 2 for request in requests)


def test_an_answer_at_the_end_of_the_wait_is_still_heard():
    requests, transport = answering()
    scope = DefectScope("http://scope", "ds_x", transport=transport)

    scope.wait("insp_1", timeout_seconds=5)

    (request,) = requests
    assert request.extensions["timeout"]["read"] > float(request.url.params["wait"]) + 0.5


def test_a_refusal_is_not_retried():
    requests, transport = answering(
        httpx.Response(422, json={"code": "invalid_input", "detail": "no", "field": "lot"})
    )
    scope = DefectScope("http://scope", "ds_x", transport=transport, sleep=lambda _: None)

    with pytest.raises(DefectScopeApiError) as refused:
        scope.get("insp_1")

    assert len(requests) == 1
    assert refused.value.field == "lot"


def test_a_service_that_is_away_is_unreachable_after_all_attempts():
    requests, transport = answering(*[httpx.ConnectError("refused")] * 9)
    scope = DefectScope(
        "http://scope", "ds_x", attempts=3, transport=transport, sleep=lambda _: None
    )

    with pytest.raises(DefectScopeUnreachable, match=r"3 times.*refused"):
        scope.get("insp_1")

    assert len(requests) == 3


def test_publishing_sends_only_files_that_the_service_lacks(scope, tmp_path, make_manifest):
    import hashlib

    files = {}
    bundle = tmp_path / "cable"
    bundle.mkdir()
    for name, body, folder in (
        ("backbone", b"shared backbone", tmp_path),  # beside the bundles that share it
        ("model", b"one head", bundle),
        ("reference", b"photos", bundle),
    ):
        file = f"{name}.safetensors"
        (folder / file).write_bytes(body)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        files[name] = {"file": file, "sha256": digest, "bytes": len(body)}
    (bundle / "manifest.json").write_bytes(make_manifest("cable", **files).to_json())
    sent = []

    first = scope.publish(bundle, activate=True, on_file=sent.append)
    again = scope.publish(bundle, on_file=sent.append)
    (bundle / "manifest.json").write_bytes(make_manifest("cable", seed=7, **files).to_json())
    other = scope.publish(bundle, shadow=True, on_file=sent.append)

    assert sent == ["backbone.safetensors", "model.safetensors", "reference.safetensors"]
    assert (first["version"], first["is_active"], first["is_shadow"]) == (1, True, False)
    assert again["version"] == 1
    assert (other["version"], other["is_active"], other["is_shadow"]) == (2, False, True)
    assert scope.shadow("cable")["shadow_version"] == 2


def test_a_submission_that_was_accepted_but_not_read_back_is_asked_for_and_not_sent_again(png):
    requests, transport = answering(
        httpx.Response(202, json={"id": "insp_1", "urls": {"self": "http://scope/insp_1"}})
    )
    scope = DefectScope("http://scope", "ds_x", transport=transport, sleep=lambda _: None)

    assert scope.submit(png).id == INSPECTION_EXAMPLE["id"]
    assert [request.method for request in requests] == ["POST", "GET"]


def test_a_lot_in_batches(scope, png, jpeg, tmp_path, judge_all):
    files = [tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "c.txt"]
    for file, data in zip(files, (png, jpeg, b"no picture"), strict=True):
        file.write_bytes(data)
    batch = scope.submit_batch(files[:1], lot="L7", metadata={"shift": "late"})
    more = scope.submit_batch(files[1:], batch_id=batch["id"], lot="L7")
    assert [item["error"] and item["error"]["code"] for item in more["items"]] == [
        None,
        "not_an_image",
    ]
    judge_all()
    assert scope.batch(batch["id"])["by_verdict"] == {"good": 2}
    listed = list(scope.inspections(batch=batch["id"]))
    assert sorted(one.document["metadata"].get("shift", "") for one in listed) == ["", "late"]


@pytest.fixture
def newer(organisation, make_manifest):
    """Versions 2 and 3 of the bottle; version 1 is active."""
    with transaction() as session:
        for seed in (2, 3):
            products.publish(
                session,
                organisation_id=organisation,
                manifest=make_manifest(seed=seed),
                is_stored=lambda _: True,
                actor="test",
            )


def test_activating_rolling_back_and_shadowing(scope, newer):
    assert scope.activate("bottle", 2)["active_version"] == 2
    assert scope.activate("bottle", 3)["active_version"] == 3
    assert scope.roll_back("bottle")["active_version"] == 2
    assert scope.start_shadow("bottle", 3)["shadow_version"] == 3
    (bottle,) = scope.products()
    assert (bottle["active_version"], bottle["shadow_version"]) == (2, 3)
    assert (scope.shadow("bottle")["shadow_version"], scope.shadow("bottle")["failures"]) == (3, 0)
    assert list(scope.disagreements("bottle")) == []
    scope.stop_shadow("bottle")
    with pytest.raises(DefectScopeApiError) as refused:
        scope.shadow("bottle")
    assert refused.value.code == "no_shadow"


def test_a_rollback_whose_answer_was_lost_goes_back_one_version_only(app, new_key, newer):
    """The gateway did it, the answer broke off, the client sends it again."""
    through, lost = ThroughTheApp(app), []

    def handle(request):
        answer = through.handle_request(request)
        if request.url.path.endswith("/rollback") and not lost:
            lost.append(answer.status_code)
            raise httpx.ReadError("the connection broke")
        return answer

    transport = httpx.MockTransport(handle)
    scope = DefectScope("http://scope", new_key(), transport=transport, sleep=lambda _: None)
    scope.activate("bottle", 2)
    scope.activate("bottle", 3)

    assert scope.roll_back("bottle")["active_version"] == 2
    assert lost == [200]
    assert scope.products()[0]["active_version"] == 2


def test_rolling_back_a_product_that_is_unknown_says_so(scope):
    with pytest.raises(DefectScopeApiError) as refused:
        scope.roll_back("no/such")

    assert refused.value.status == 404
