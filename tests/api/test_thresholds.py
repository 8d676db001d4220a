"""Thresholds over HTTP: read, asked about, changed."""

import pytest

from shared.tables import Scope
from shared.verdicts import ReviewReason

PATH = "/v1/products/bottle/thresholds"
WHAT_IF = "/v1/products/bottle/what-if"
AUDIT = "/v1/products/bottle/audit"
OTHER = {
    "defect_probability": 0.5,
    "near_threshold_low": 0.45,
    "near_threshold_high": 0.55,
    "anomaly_score": 6.0,
    "domain_distance": 40.0,
}


@pytest.fixture
def judge(api, png, judge_all):
    def judge(probability, *reasons):
        api.post("/v1/inspections", files={"file": png})
        judge_all(probability, reasons)

    return judge


def shown(api):
    (product,) = api.get("/v1/products").json()["products"]
    return product


def decide_next(api, verdict):
    claimed = api.post("/v1/reviews/next", json={}).json()
    decision = {"lease_token": claimed["lease_token"], "verdict": verdict}
    answer = api.post(f"/v1/reviews/{claimed['id']}/decision", json=decision)
    assert answer.status_code == 200


def test_what_is_in_force_comes_with_the_tag_to_change_it(api):
    answer = api.get(PATH)

    said = answer.json()
    assert (said["product"], said["version"]) == ("bottle", 1)
    assert said["thresholds"]["defect_probability"] == 0.336
    assert answer.headers["ETag"] == f'"{said["digest"]}"'


def test_a_change_names_what_it_was_made_from_and_is_in_force_at_once(api):
    tag = api.get(PATH).headers["ETag"]
    changed = api.put(PATH, json=OTHER, headers={"If-Match": tag})

    assert changed.status_code == 200
    assert (changed.json()["version"], changed.json()["thresholds"]) == (2, OTHER)
    assert changed.headers["ETag"] != tag
    assert api.get(PATH).json() == changed.json()
    assert shown(api)["active_version"] == 2


def test_without_the_tag_nothing_is_changed(api):
    answer = api.put(PATH, json=OTHER)

    assert (answer.status_code, answer.json()["code"]) == (428, "if_match_required")
    assert api.get(PATH).json()["version"] == 1


def test_a_change_that_somebody_else_was_faster_with_is_refused(api):
    tag = api.get(PATH).headers["ETag"]
    api.put(PATH, json=OTHER, headers={"If-Match": tag})
    mine = {**OTHER, "anomaly_score": 7.0}

    answer = api.put(PATH, json=mine, headers={"If-Match": tag})
    assert (answer.status_code, answer.json()["code"]) == (412, "changed_meanwhile")
    assert api.get(PATH).json()["thresholds"] == OTHER


def test_a_tag_that_a_proxy_made_weak_is_taken(api):
    tag = api.get(PATH).headers["ETag"]

    assert api.put(PATH, json=OTHER, headers={"If-Match": f"W/{tag}"}).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"near_threshold_low": 0.51}, "near_threshold_low"),
        ({"near_threshold_high": 0.49}, "near_threshold_high"),
        ({"defect_probability": 1.5}, "defect_probability"),
        ({"domain_distance": 0}, "domain_distance"),
        ({"anomaly_score": None}, "anomaly_score"),
        ({"mse": 0.1}, "mse"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(api, change, field):
    tag = api.get(PATH).headers["ETag"]
    answer = api.put(PATH, json={**OTHER, **change}, headers={"If-Match": tag})

    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert api.get(PATH).json()["version"] == 1


def test_a_rollback_takes_a_change_back(api):
    before = api.get(PATH)
    api.put(PATH, json=OTHER, headers={"If-Match": before.headers["ETag"]})
    assert api.post("/v1/products/bottle/rollback").status_code == 200

    assert api.get(PATH).json() == before.json()


def test_a_product_without_an_active_version_has_no_thresholds(api, make_manifest, organisation):
    from shared import products
    from shared.db import transaction

    with transaction() as session:
        products.publish(
            session,
            organisation_id=organisation,
            manifest=make_manifest("screw"),
            is_stored=lambda _: True,
            actor="test",
        )
    for path in ("/v1/products/screw/thresholds", "/v1/products/screw/what-if"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_active_version")


def test_what_if_counts_the_photos_that_were_judged(api, judge):
    judge(0.1)
    judge(0.38, ReviewReason.NEAR_THRESHOLD)
    decide_next(api, "good")
    # The scores of `judge` are not anomalous, so the models disagree about it as well.
    judge(0.31, ReviewReason.NEAR_THRESHOLD)
    decide_next(api, "defective")

    answer = api.get(WHAT_IF, params={"near_threshold_low": 0.336})

    said = answer.json()
    assert answer.status_code == 200
    assert said["thresholds"]["near_threshold_low"] == 0.336
    assert said["thresholds"]["near_threshold_high"] == 0.4
    present, proposed = said["present"], said["proposed"]
    assert (present["photos"], present["passes"], present["review_load"]["count"]) == (3, 1, 2)
    assert (present["escapes"]["decided"]["count"], present["escapes"]["decided"]["of"]) == (0, 1)
    # Nobody has looked at what passed.
    assert present["escapes"]["estimated"] is None
    assert (proposed["passes"], proposed["review_load"]["count"]) == (2, 1)
    assert (proposed["escapes"]["decided"]["count"], proposed["escapes"]["decided"]["of"]) == (1, 1)
    # Clopper-Pearson of 1 in 1: 0.025 to 1.
    assert proposed["escapes"]["decided"]["low"] == pytest.approx(0.025)
    assert proposed["escapes"]["decided"]["high"] == 1.0


def test_what_if_of_nothing_is_nothing(api):
    said = api.get(WHAT_IF).json()

    assert said["proposed"] == said["present"]
    assert said["present"]["photos"] == 0
    assert said["present"]["review_load"] == {"count": 0, "of": 0, "low": None, "high": None}


def test_what_if_since_a_moment_leaves_out_what_was_before(api, judge):
    judge(0.1)

    for since, photos in (("2026-01-01T00:00:00Z", 1), ("2100-01-01T00:00:00+09:00", 0)):
        said = api.get(WHAT_IF, params={"since": since}).json()
        assert said["present"]["photos"] == photos
    assert api.get(WHAT_IF, params={"since": "2026-01-01T00:00:00"}).status_code == 422


@pytest.mark.parametrize(
    "params",
    [
        {"defect_probability": "nan"},
        {"defect_probability": 0.5},
        {"near_threshold_high": 0.3},
        {"anomaly_score": "inf"},
        {"domain_distance": 0},
    ],
)
def test_what_if_of_thresholds_that_cannot_be_is_refused(api, params):
    assert api.get(WHAT_IF, params=params).status_code == 422


def test_the_audit_share_is_shown_with_the_product(api):
    assert api.put(AUDIT, json={"share": 0.02}).json()["audit_share"] == 0.02
    assert shown(api)["audit_share"] == 0.02
    assert api.put(AUDIT, json={"share": 1.01}).status_code == 422
    entry = api.get("/v1/audit").json()["entries"][0]
    assert (entry["action"], entry["subject"]) == ("audit_share.changed", "bottle")


def test_who_may_only_read_asks_and_changes_nothing(api, new_key):
    headers = {"Authorization": f"Bearer {new_key(Scope.READ)}"}
    tag = api.get(PATH).headers["ETag"]

    assert api.get(PATH, headers=headers).status_code == 200
    assert api.get(WHAT_IF, headers=headers).status_code == 200
    refused = api.put(PATH, json=OTHER, headers={**headers, "If-Match": tag})
    assert refused.status_code == 403
    assert api.put(AUDIT, json={"share": 0.5}, headers=headers).status_code == 403


def test_the_openapi_document_names_the_tag(api):
    paths = api.get("/openapi.json").json()["paths"]
    put = paths["/v1/products/{name}/thresholds"]["put"]

    assert {"200", "409", "412", "422", "428"} <= set(put["responses"])
    assert "ETag" in put["responses"]["200"]["headers"]
    assert "if-match" in {parameter["name"].lower() for parameter in put["parameters"]}
    schema = put["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["required"]) == set(OTHER)
