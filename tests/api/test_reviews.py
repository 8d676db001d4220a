"""The review queue over HTTP: what a reviewer's program does."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from shared.db import transaction
from shared.tables import Review, Scope
from shared.verdicts import ReviewReason
from shared.webhook_tables import WebhookDelivery

NEXT = "/v1/reviews/next"
REGION = [[[0.1, 0.1], [0.2, 0.1], [0.2, 0.25]]]


@pytest.fixture
def hold(api, png, judge_all):
    """A photo that a person must look at; the id of its inspection."""

    def hold(reason=ReviewReason.NEAR_THRESHOLD, **fields):
        answer = api.post("/v1/inspections", files={"file": png}, data=fields)
        judge_all(0.35, (reason,))
        return answer.json()["id"]

    return hold


@pytest.fixture
def ben(new_key):
    """Headers of somebody else who reviews for the same organisation."""
    return {"Authorization": f"Bearer {new_key(Scope.REVIEW)}"}


def let_leases_end():
    with transaction() as session:
        session.execute(update(Review).values(lease_until=Review.lease_until - timedelta(hours=1)))


def claim_next(api, **filters):
    answer = api.post(NEXT, json=filters)
    assert answer.status_code == 200, answer.text
    return answer.json()


def decide(api, claimed, *, headers=None, **decision):
    return api.post(
        f"/v1/reviews/{claimed['id']}/decision",
        json={"lease_token": claimed["lease_token"], "verdict": "good", **decision},
        headers=headers,
    )


def test_where_nothing_waits_there_is_nothing_to_read(api):
    answer = api.post(NEXT, json={})

    assert (answer.status_code, answer.content) == (204, b"")


def test_a_claim_brings_what_a_person_needs_to_decide(api, hold):
    id_ = hold(line="L2", serial="SN1")
    claimed = claim_next(api)

    assert (claimed["inspection_id"], claimed["status"]) == (id_, "claimed")
    assert claimed["reasons"] == ["near_threshold"]
    assert claimed["inspection"]["id"] == id_
    assert claimed["inspection"]["part"]["serial"] == "SN1"
    assert claimed["inspection"]["review"]["status"] == "claimed"
    assert claimed["defect_types"] == ["broken_large", "other"]
    assert (claimed["decisions"], claimed["decided_at"]) == ([], None)
    left = datetime.fromisoformat(claimed["lease_until"]) - datetime.now(UTC)
    assert timedelta(seconds=60) < left <= timedelta(seconds=120)
    assert "lease_token" not in api.get(f"/v1/reviews/{claimed['id']}").json()


def test_a_decision_changes_the_inspection_and_keeps_what_the_model_said(api, hold):
    id_ = hold()
    before = api.get(f"/v1/inspections/{id_}").json()
    assert (before["needs_review"], before["disposition"]) == (True, "hold")
    claimed = claim_next(api)
    answer = decide(
        *(api, claimed),
        **{"verdict": "defective", "defect_type": "broken_large", "region": REGION},
        comment="chipped\nat the rim",
    )

    assert answer.status_code == 200
    (decision,) = answer.json()["decisions"]
    assert (decision["verdict"], decision["defect_type"]) == ("defective", "broken_large")
    assert (decision["region"], decision["comment"]) == (REGION, "chipped\nat the rim")
    after = api.get(f"/v1/inspections/{id_}").json()
    assert (after["verdict"], after["disposition"]) == ("defective", "reject")
    assert (after["verdict_source"], after["needs_review"]) == ("person", False)
    assert (after["model_verdict"], after["model_disposition"]) == ("defective", "hold")
    assert after["review_reasons"] == ["near_threshold"]
    assert after["review"] == {
        **{"id": claimed["id"], "status": "decided"},
        "decision": decision,
    }
    events = api.get(f"/v1/inspections/{id_}/history").json()["history"]
    assert events[-1]["event"] == "decided"
    entry = api.get("/v1/audit").json()["entries"][0]
    assert (entry["action"], entry["subject"]) == ("review.decided", claimed["id"])


def test_filters_choose_what_comes_next(api, hold):
    hold(line="L1")
    wanted = hold(ReviewReason.OUT_OF_DOMAIN, line="L2", lot="B", station="cam1")
    asked = {"line": "L2", "lot": "B", "station": "cam1", "product": "bottle"}

    assert claim_next(api, **asked, reason="out_of_domain")["inspection_id"] == wanted
    assert api.post(NEXT, json={"line": "L3"}).status_code == 204


def test_somebody_else_is_refused_until_the_lease_ends(api, hold, ben):
    hold()
    claimed = claim_next(api)
    path = f"/v1/reviews/{claimed['id']}/claim"

    refused = api.post(path, headers=ben)
    assert (refused.status_code, refused.json()["code"]) == (409, "held_by_another")
    # By the name of the key, as people know each other.
    assert refused.json()["detail"].startswith("test looks at this part, until ")
    assert api.post(NEXT, json={}, headers=ben).status_code == 204

    let_leases_end()
    assert api.post(path, headers=ben).status_code == 200


def test_a_decision_that_comes_too_late_is_refused_and_changes_nothing(api, hold):
    id_ = hold()
    claimed = claim_next(api)
    let_leases_end()

    late = decide(api, claimed)
    assert (late.status_code, late.json()["code"]) == (409, "lease_lost")
    assert api.get(f"/v1/inspections/{id_}").json()["needs_review"] is True
    # Whoever decided, and lost the answer, is told so and not decided twice.
    again = claim_next(api)
    assert decide(api, again).status_code == 200
    assert decide(api, again).status_code == 409
    assert len(api.get(f"/v1/reviews/{claimed['id']}").json()["decisions"]) == 1


def test_a_sign_of_activity_extends_the_lease(api, hold):
    hold()
    claimed = claim_next(api)
    extended = api.post(
        f"/v1/reviews/{claimed['id']}/extend", json={"lease_token": claimed["lease_token"]}
    ).json()

    assert extended["lease_token"] == claimed["lease_token"]
    assert extended["lease_until"] > claimed["lease_until"]


def test_what_is_skipped_goes_to_others_first(api, hold, ben):
    first, second = hold(), hold()
    claimed = claim_next(api)
    assert claimed["inspection_id"] == first
    answer = api.post(
        f"/v1/reviews/{claimed['id']}/release",
        json={"lease_token": claimed["lease_token"], "skip": True},
    )

    assert (answer.status_code, answer.content) == (204, b"")
    assert claim_next(api)["inspection_id"] == second
    assert api.post(NEXT, json={}, headers=ben).json()["inspection_id"] == first


def test_a_decision_can_be_superseded_and_both_can_be_read(api, hold, ben):
    id_ = hold()
    claimed = claim_next(api)
    decide(api, claimed)
    path = f"/v1/reviews/{claimed['id']}"
    again = api.post(f"{path}/claim", headers=ben).json()
    assert again["status"] == "decided"
    decide(api, again, headers=ben, verdict="defective", defect_type="other")

    decisions = api.get(path).json()["decisions"]
    assert [decision["verdict"] for decision in decisions] == ["good", "defective"]
    assert decisions[0]["reviewer"] != decisions[1]["reviewer"]
    assert api.get(f"/v1/inspections/{id_}").json()["disposition"] == "reject"


@pytest.mark.parametrize(
    ("decision", "field"),
    [
        ({"verdict": "perhaps"}, "verdict"),
        ({"verdict": "good", "region": REGION}, "region"),
        ({"verdict": "good", "defect_type": "other"}, "defect_type"),
        ({"verdict": "defective", "defect_type": "rust"}, "defect_type"),
        ({"verdict": "defective", "region": []}, "region"),
        ({"verdict": "defective", "region": [[[0.1, 0.1], [0.2, 0.2]]]}, "region.0"),
        ({"verdict": "defective", "region": [[[0.1, 1.1]] * 3]}, "region.0.0.1"),
        ({"verdict": "good", "comment": "x" * 2001}, "comment"),
        ({"verdict": "good", "comment": "\0"}, "comment"),
        ({"verdict": "good", "reviewer": "key_somebody"}, "reviewer"),
        ({"verdict": "good", "lease_token": ""}, "lease_token"),
        ({"verdict": "good", "lease_token": "\u00e4"}, "lease_token"),
    ],
)
def test_a_decision_that_cannot_be_is_refused_and_says_why(api, hold, decision, field):
    hold()
    claimed = claim_next(api)
    answer = decide(api, claimed, **decision)

    assert answer.status_code == 422
    assert (answer.json()["code"], answer.json()["field"]) == ("invalid_input", field)
    assert api.get(f"/v1/reviews/{claimed['id']}").json()["decisions"] == []


def test_only_numbers_that_json_has_are_a_region(api, hold):
    hold()
    claimed = claim_next(api)
    region = json.dumps([[[float("nan"), 0], [0, 0], [1, 1]]])
    answer = api.post(
        f"/v1/reviews/{claimed['id']}/decision",
        content=f'{{"lease_token": "x", "verdict": "defective", "region": {region}}}',
    )

    assert answer.status_code in {400, 422}


def test_the_list_says_what_waits_and_goes_page_by_page(api, hold):
    ids = [hold(line="L1"), hold(line="L1"), hold(line="L2")]
    decide(api, claim_next(api, line="L2"))

    first = api.get("/v1/reviews", params={"page_size": 2}).json()
    rest = api.get("/v1/reviews", params={"page_token": first["next_page_token"]}).json()
    listed = [row["inspection_id"] for row in first["reviews"] + rest["reviews"]]
    assert listed == ids
    assert (first["waiting"], rest["next_page_token"]) == (2, "")
    assert rest["reviews"][0]["decisions"][0]["verdict"] == "good"
    (decided,) = api.get("/v1/reviews", params={"status": "decided"}).json()["reviews"]
    assert decided["inspection_id"] == ids[2]
    assert api.get("/v1/reviews", params={"line": "L1"}).json()["waiting"] == 2


def test_a_list_with_a_filter_that_cannot_be_is_refused(api):
    for params in ({"status": "lost"}, {"reason": "?"}, {"page_token": "rev_x"}, {"line": "\0"}):
        assert api.get("/v1/reviews", params=params).status_code == 422, params


def test_a_key_that_may_only_read_reviews_nothing(api, hold, new_key):
    hold()
    headers = {"Authorization": f"Bearer {new_key(Scope.READ, Scope.SUBMIT)}"}

    assert api.get("/v1/reviews", headers=headers).status_code == 403
    assert api.post(NEXT, json={}, headers=headers).status_code == 403


def test_a_stranger_finds_nothing(api, hold, new_key):
    hold()
    claimed = claim_next(api)
    let_leases_end()
    stranger = {"Authorization": f"Bearer {new_key(organisation_id='org_stranger')}"}

    assert api.post(NEXT, json={}, headers=stranger).status_code == 204
    assert api.get("/v1/reviews", headers=stranger).json()["reviews"] == []
    assert decide(api, claimed, headers=stranger).status_code == 404


def test_a_decision_is_to_be_delivered_under_an_id_of_its_own(api, hold, db):
    made = api.post("/v1/webhooks", json={"url": "https://93.184.216.34/hook"}).json()
    id_ = hold()
    decide(api, claim_next(api))

    shown = api.get(f"/v1/webhooks/{made['id']}/deliveries").json()["deliveries"]
    assert {row["event"] for row in shown} == {"inspection.completed", "review.decided"}
    (decided,) = [row for row in shown if row["event"] == "review.decided"]
    review = api.get(f"/v1/inspections/{id_}").json()["review"]
    assert (decided["inspection_id"], decided["decision_id"]) == (id_, review["decision"]["id"])
    assert len(set(db.scalars(select(WebhookDelivery.id)))) == 2


def test_the_openapi_document_has_every_step(api):
    document = api.get("/openapi.json").json()
    paths = document["paths"]
    steps = {path: set(methods) for path, methods in paths.items() if "/reviews" in path}

    assert steps == {
        "/v1/reviews": {"get"},
        "/v1/reviews/next": {"post"},
        "/v1/reviews/{review_id}": {"get"},
        **{
            f"/v1/reviews/{{review_id}}/{step}": {"post"}
            for step in ("claim", "extend", "release", "decision")
        },
    }
    assert {"200", "204"} <= set(paths[NEXT]["post"]["responses"])
    assert "409" in paths["/v1/reviews/{review_id}/decision"]["post"]["responses"]
    body = paths["/v1/reviews/{review_id}/decision"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert set(schema["required"]) == {"lease_token", "verdict"}
    answer = document["components"]["schemas"]["ClaimedOut"]["properties"]
    assert {"lease_token", "lease_until", "inspection", "defect_types"} <= set(answer)
