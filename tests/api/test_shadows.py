"""Shadow versions over HTTP; tests/worker/test_shadowing.py has what the worker does with them."""

from datetime import timedelta
from itertools import count

import pytest

from shared import claiming, inspections, products
from shared.db import transaction
from shared.inspections import Recorded
from shared.shadows import ShadowJudgement
from shared.tables import Scope
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict

NEAR = (ReviewReason.NEAR_THRESHOLD,)


def outcome(verdict, *reasons):
    usual = Disposition.REJECT if verdict is Verdict.DEFECTIVE else Disposition.PASS
    disposition = Disposition.HOLD if reasons else usual
    return Outcome(verdict, disposition, reasons, verdict is Verdict.DEFECTIVE, False, True)


GOOD, DEFECTIVE = outcome(Verdict.GOOD), outcome(Verdict.DEFECTIVE)
GOOD_BUT_NEAR = outcome(Verdict.GOOD, *NEAR)


@pytest.fixture
def publish(organisation, make_manifest):
    """Publishes further versions of the bottle; version 1 is active."""
    seeds = count(100)

    def publish(product="bottle"):
        with transaction() as session:
            return products.publish(
                session,
                organisation_id=organisation,
                manifest=make_manifest(product, seed=next(seeds)),
                is_stored=lambda _: True,
                actor="test",
            ).version

    return publish


@pytest.fixture
def judge(queued):
    """A photo, judged by the active version and by the shadow as told; returns its id.

    `meanwhile` happens between the claim and the record.
    """

    def judge(active, shadow, meanwhile=lambda: None):
        (id_,) = queued(5)
        with transaction() as session:
            batch = claiming.claim(
                session, limit=100, lease=timedelta(seconds=30), worker="worker:test"
            )
        (claimed,) = batch.inspections
        meanwhile()
        said = None
        if claimed.shadow_version_id and isinstance(shadow, str):
            said = ShadowJudgement.failed(claimed.shadow_version_id, shadow)
        elif claimed.shadow_version_id:
            scores = Scores(0.8, 0.004, 2.0, 30.0, ())
            said = ShadowJudgement.judged(claimed.shadow_version_id, scores, shadow)
        timings = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1.0)
        result = Recorded(
            id_, Scores(0.1, 0.002, 1.0, 20.0, ()), active, "torch-cpu", "o", "a", [], timings, said
        )
        with transaction() as session:
            inspections.record(session, token=batch.token, results=[result], worker="worker:test")
        return id_

    return judge


def start(api, version, product="bottle"):
    return api.post(f"/v1/products/{product}/versions/{version}/shadow")


def summary(api):
    return api.get("/v1/products/bottle/shadow").json()


def disagreements(api, **params):
    return api.get("/v1/products/bottle/shadow/disagreements", params=params).json()


def test_a_shadow_starts_is_seen_and_stops(api, publish):
    version = publish()

    started = start(api, version)

    assert started.status_code == 200
    assert (started.json()["active_version"], started.json()["shadow_version"]) == (1, version)
    versions = api.get("/v1/products/bottle/versions").json()["versions"]
    assert [(one["version"], one["is_active"], one["is_shadow"]) for one in versions] == [
        (version, False, True),
        (1, True, False),
    ]
    said = summary(api)
    assert (said["shadow_version"], said["active_version"]) == (version, 1)
    assert (said["inspections"], said["failures"], said["verdicts"]) == (0, 0, [])

    assert api.delete("/v1/products/bottle/shadow").status_code == 204
    assert api.delete("/v1/products/bottle/shadow").status_code == 204
    gone = api.get("/v1/products/bottle/shadow")
    assert (gone.status_code, gone.json()["code"]) == (404, "no_shadow")
    assert api.get("/v1/products/bottle/shadow/disagreements").status_code == 404


def test_agreements_and_disagreements_are_counted_by_kind(api, publish, judge):
    start(api, publish())
    for active, shadow in (
        (GOOD, GOOD),
        (DEFECTIVE, DEFECTIVE),
        (GOOD, DEFECTIVE),
        (GOOD, DEFECTIVE),
        # The same verdict, but the part would be held: a disagreement too.
        (GOOD, GOOD_BUT_NEAR),
        (GOOD, "not_a_number"),
        (DEFECTIVE, "inspection_error"),
        (GOOD, "not_a_number"),
    ):
        judge(active, shadow)

    said = summary(api)

    assert (said["inspections"], said["agreements"], said["disagreements"]) == (5, 2, 3)
    assert said["verdicts"] == [
        {"active": "defective", "shadow": "defective", "inspections": 1},
        {"active": "good", "shadow": "defective", "inspections": 2},
        {"active": "good", "shadow": "good", "inspections": 2},
    ]
    assert said["dispositions"] == [
        {"active": "pass", "shadow": "hold", "inspections": 1},
        {"active": "pass", "shadow": "pass", "inspections": 1},
        {"active": "pass", "shadow": "reject", "inspections": 2},
        {"active": "reject", "shadow": "reject", "inspections": 1},
    ]
    assert said["failures"] == 3
    assert said["failure_codes"] == {"not_a_number": 2, "inspection_error": 1}


def test_disagreements_are_listed_newest_first_with_both_opinions(api, publish, judge):
    start(api, publish())
    ids = [judge(GOOD, DEFECTIVE) for _ in range(3)]
    judge(GOOD, GOOD)
    judge(GOOD, "not_a_number")

    first = disagreements(api, page_size=2)
    rest = disagreements(api, page_size=2, page_token=first["next_page_token"])

    assert [one["inspection_id"] for one in first["disagreements"]] == [ids[2], ids[1]]
    assert [one["inspection_id"] for one in rest["disagreements"]] == [ids[0]]
    assert rest["next_page_token"] == ""
    opinions = rest["disagreements"][0]
    assert opinions["active"] == {
        "verdict": "good",
        "disposition": "pass",
        "defect_probability": 0.1,
        "mse": 0.002,
        "anomaly_score": 1.0,
        "domain_distance": 20.0,
    }
    assert opinions["shadow"] == {
        "verdict": "defective",
        "disposition": "reject",
        "defect_probability": 0.8,
        "mse": 0.004,
        "anomaly_score": 2.0,
        "domain_distance": 30.0,
    }
    wrong = api.get("/v1/products/bottle/shadow/disagreements", params={"page_token": "x"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "page_token")


def test_only_the_present_pair_since_its_start_is_compared(api, publish, judge):
    second, third = publish(), publish()
    start(api, second)
    judge(GOOD, DEFECTIVE)

    # Another shadow: another pair.
    start(api, third)
    assert summary(api)["inspections"] == 0
    judge(GOOD, DEFECTIVE)
    judge(GOOD, GOOD)
    # Starting what runs already loses no count.
    start(api, third)
    assert summary(api)["inspections"] == 2

    # Another active version: another pair.
    api.post(f"/v1/products/bottle/versions/{second}/activate")
    assert (summary(api)["active_version"], summary(api)["inspections"]) == (second, 0)
    assert disagreements(api)["disagreements"] == []
    api.post("/v1/products/bottle/rollback")
    assert (summary(api)["active_version"], summary(api)["inspections"]) == (1, 2)

    # Stopped and started again: counts begin anew.
    api.delete("/v1/products/bottle/shadow")
    start(api, third)
    assert summary(api)["inspections"] == 0


def test_a_photo_taken_under_the_shadow_before_does_not_count_for_the_next(api, publish, judge):
    second, third = publish(), publish()
    start(api, second)

    judge(GOOD, DEFECTIVE, meanwhile=lambda: start(api, third))

    assert (summary(api)["shadow_version"], summary(api)["inspections"]) == (third, 0)
    assert disagreements(api)["disagreements"] == []


def test_the_active_version_cannot_be_its_own_shadow(api, publish):
    answer = start(api, 1)

    assert (answer.status_code, answer.json()["code"]) == (409, "already_active")
    assert "bottle@1" in answer.json()["detail"]


def test_a_product_without_an_active_version_has_nothing_to_compare_with(api, publish):
    answer = start(api, publish("cable"), "cable")

    assert (answer.status_code, answer.json()["code"]) == (409, "no_active_version")


def test_an_unknown_version_or_product_cannot_be_a_shadow(api, publish):
    assert start(api, 9).status_code == 404
    assert start(api, 1, "unheard-of").status_code == 404
    assert api.delete("/v1/products/unheard-of/shadow").status_code == 404


@pytest.mark.parametrize("way", ["activate", "rollback"])
def test_a_shadow_that_becomes_active_is_no_shadow_any_more(api, publish, way):
    second = publish()
    if way == "activate":
        start(api, second)
        product = api.post(f"/v1/products/bottle/versions/{second}/activate").json()
    else:
        api.post(f"/v1/products/bottle/versions/{second}/activate")
        start(api, 1)
        product = api.post("/v1/products/bottle/rollback").json()

    assert product["active_version"] == (second if way == "activate" else 1)
    assert product["shadow_version"] is None
    assert api.get("/v1/products/bottle/shadow").status_code == 404


def test_another_version_becoming_active_leaves_the_shadow(api, publish):
    second, third = publish(), publish()
    start(api, second)

    product = api.post(f"/v1/products/bottle/versions/{third}/activate").json()

    assert (product["active_version"], product["shadow_version"]) == (third, second)


def test_no_document_of_an_inspection_mentions_the_shadow(api, publish, judge):
    plain = judge(GOOD, None)
    start(api, publish())
    beside = judge(GOOD, DEFECTIVE)

    def document(id_):
        return api.get(f"/v1/inspections/{id_}").json()

    def steps(id_):
        return [one["event"] for one in api.get(f"/v1/inspections/{id_}/history").json()["history"]]

    assert summary(api)["disagreements"] == 1
    assert "shadow" not in api.get(f"/v1/inspections/{beside}").text
    assert "shadow" not in api.get(f"/v1/inspections/{beside}/history").text
    assert "shadow" not in api.get("/v1/inspections").text
    assert document(beside).keys() == document(plain).keys()
    for field in ("verdict", "disposition", "classifier", "autoencoder", "model", "review_reasons"):
        assert document(beside)[field] == document(plain)[field]
    assert steps(beside) == steps(plain)


def test_looking_needs_the_scope_read_and_changing_the_scope_admin(app, publish, new_key):
    version = publish()

    def status(scope, method, path):
        headers = {"Authorization": f"Bearer {new_key(scope)}"}
        return app.request(method, f"/v1/products/bottle{path}", headers=headers).status_code

    changes = [
        ("POST", f"/versions/{version}/shadow"),
        ("DELETE", "/shadow"),
        ("POST", "/rollback"),
    ]
    looks = [("GET", "/shadow"), ("GET", "/shadow/disagreements"), ("GET", "/activations")]
    for method, path in changes:
        assert status(Scope.READ, method, path) == 403, path
    for method, path in looks:
        assert status(Scope.SUBMIT, method, path) == 403, path
    assert status(Scope.ADMIN, *changes[0]) == 200
    for method, path in looks:
        assert status(Scope.READ, method, path) == 200, path


def test_products_of_another_organisation_do_not_exist(app, publish, new_key):
    version = publish()
    own = {"Authorization": f"Bearer {new_key()}"}
    foreign = {"Authorization": f"Bearer {new_key(organisation_id='org_other')}"}
    app.post(f"/v1/products/bottle/versions/{version}/shadow", headers=own)

    for method, path in (
        ("POST", f"/versions/{version}/shadow"),
        ("DELETE", "/shadow"),
        ("POST", "/rollback"),
        ("GET", "/shadow"),
        ("GET", "/shadow/disagreements"),
        ("GET", "/activations"),
    ):
        answer = app.request(method, f"/v1/products/bottle{path}", headers=foreign)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert app.get("/v1/products/bottle/shadow", headers=own).status_code == 200
