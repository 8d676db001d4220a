import hashlib
import json

import pytest


def put(api, body):
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    answer = api.put(f"/v1/artifacts/{digest}", content=body)
    assert answer.status_code == 204, answer.text
    return {"file": "x.safetensors", "sha256": digest, "bytes": len(body)}


@pytest.fixture
def manifest(make_manifest):
    def make(api, product="cable", **changes):
        files = {name: put(api, name.encode()) for name in ("backbone", "model", "reference")}
        return make_manifest(product, **{**files, **changes}).model_dump(mode="json")

    return make


def test_publish_activate_and_look(api, manifest):
    body = manifest(api)

    published = api.post("/v1/products/cable/versions", json=body)
    assert published.status_code == 201
    assert published.json()["version"] == 1
    assert published.json()["is_active"] is False
    activated = api.post("/v1/products/cable/versions/1/activate")
    assert activated.json()["active_version"] == 1
    versions = api.get("/v1/products/cable/versions").json()["versions"]
    assert [(one["version"], one["is_active"]) for one in versions] == [(1, True)]
    assert [one["name"] for one in api.get("/v1/products").json()["products"]] == [
        "bottle",
        "cable",
    ]


def test_the_same_bundle_again_is_the_same_version(api, manifest):
    body = manifest(api)
    first = api.post("/v1/products/cable/versions", json=body).json()
    again = api.post("/v1/products/cable/versions", json=body).json()
    other = api.post("/v1/products/cable/versions", json=manifest(api, seed=7)).json()

    assert (first["version"], again["version"], other["version"]) == (1, 1, 2)
    assert first["digest"] == again["digest"] != other["digest"]


def test_versions_come_in_pages_and_one_by_one_with_its_manifest(api, manifest):
    bodies = [manifest(api, seed=seed) for seed in (1, 2, 3)]
    for body in bodies:
        api.post("/v1/products/cable/versions", json=body)
    path = "/v1/products/cable/versions"

    first = api.get(path, params={"page_size": 2}).json()
    rest = api.get(path, params={"page_size": 2, "page_token": first["next_page_token"]}).json()
    one = api.get(f"{path}/2").json()

    assert [card["version"] for card in first["versions"]] == [3, 2]
    assert [card["version"] for card in rest["versions"]] == [1]
    assert rest["next_page_token"] == ""
    assert "manifest" not in first["versions"][0]
    assert first["versions"][0]["thresholds"] == bodies[2]["thresholds"]
    assert one["manifest"] == bodies[1]
    assert one["digest"] == first["versions"][1]["digest"]
    assert api.get(f"{path}/4").status_code == 404
    for token in ("x", "\u0663", "1" * 30):
        refused = api.get(path, params={"page_token": token})
        assert (refused.status_code, refused.json()["field"]) == (422, "page_token")


def test_a_version_without_its_files_is_refused_and_they_are_named(api, make_manifest):
    body = make_manifest("cable").model_dump(mode="json")

    answer = api.post("/v1/products/cable/versions", json=body)

    assert answer.status_code == 422
    assert answer.json()["code"] == "artifact_missing"
    assert "backbone.safetensors" in answer.json()["detail"]
    assert api.get("/v1/products/cable/versions").status_code == 404


def test_a_damaged_file_is_refused_by_its_digest(api):
    digest = f"sha256:{hashlib.sha256(b'whole').hexdigest()}"

    answer = api.put(f"/v1/artifacts/{digest}", content=b"dama")

    assert answer.status_code == 422
    assert answer.json()["code"] == "digest_mismatch"
    assert api.head(f"/v1/artifacts/{digest}").status_code == 404


def test_a_manifest_for_another_product_is_refused(api, manifest):
    answer = api.post("/v1/products/screw/versions", json=manifest(api))

    assert answer.status_code == 422
    assert answer.json()["field"] == "product"


def test_a_manifest_with_a_field_too_many_is_refused_by_name(api, manifest):
    answer = api.post("/v1/products/cable/versions", json={**manifest(api), "surprise": 1})

    assert answer.status_code == 422
    assert answer.json()["field"] == "surprise"


def test_nobody_without_a_key_has_a_body_read(app, organisation):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 50 * 2**20:
            sent += 2**20
            yield bytes(2**20)

    answer = app.post("/v1/products/cable/versions", content=endless())

    assert answer.status_code == 401


def test_a_manifest_that_is_not_json_or_too_long_or_not_storable_is_refused(api, manifest):
    def post(content):
        answer = api.post("/v1/products/cable/versions", content=content)
        return answer.status_code, answer.json()["code"]

    assert post(b"{broken") == (400, "malformed_request")
    assert post(b" " * (16 * 2**20 + 1)) == (413, "too_large")
    text = json.dumps(manifest(api))
    assert post(text.replace('"anomaly_score": 4.0', '"anomaly_score": NaN').encode())[0] == 422
    assert post(text.replace("made by a test", "\\u0000").encode())[0] == 422


def test_an_unknown_version_cannot_be_activated(api):
    answer = api.post("/v1/products/bottle/versions/9/activate")

    assert answer.status_code == 404
    assert "9" in answer.json()["detail"]


def test_photos_keep_the_version_that_was_active_when_they_came(api, png, manifest):
    before = api.post("/v1/inspections", files={"file": ("a.png", png)}).json()
    api.post("/v1/products/bottle/versions", json=manifest(api, "bottle"))
    api.post("/v1/products/bottle/versions/2/activate")
    after = api.post("/v1/inspections", files={"file": ("a.png", png)}).json()

    assert before["model"]["version"] == 1
    assert after["model"]["version"] == 2
    assert api.get(f"/v1/inspections/{before['id']}").json()["model"]["version"] == 1


@pytest.fixture
def versions(api, manifest):
    """Publishes versions 2 to 4 of the bottle; version 1 is active."""
    for seed in (2, 3, 4):
        answer = api.post("/v1/products/bottle/versions", json=manifest(api, "bottle", seed=seed))
        assert answer.json()["version"] == seed


def activate(api, version):
    return api.post(f"/v1/products/bottle/versions/{version}/activate").json()["active_version"]


def roll_back(api, **params):
    answer = api.post("/v1/products/bottle/rollback", params=params)
    return answer.json()["active_version"] if answer.status_code == 200 else answer.json()["code"]


def activations(api):
    rows = api.get("/v1/products/bottle/activations").json()["activations"]
    return [(row["version"], row["is_rollback"]) for row in rows]


def test_rolling_back_again_goes_further_back(api, versions):
    for version in (2, 3):
        activate(api, version)

    assert roll_back(api) == 2
    assert roll_back(api) == 1
    assert roll_back(api) == "nothing_to_roll_back_to"
    assert api.get("/v1/products").json()["products"][0]["active_version"] == 1


def test_what_was_rolled_back_from_is_not_rolled_back_to(api, versions):
    for version in (2, 3):
        activate(api, version)
    roll_back(api)  # 3 was bad
    activate(api, 4)

    assert roll_back(api) == 2
    assert roll_back(api) == 1


def test_a_version_that_was_active_twice_is_gone_through_twice(api, versions):
    for version in (2, 1):
        activate(api, version)

    assert [roll_back(api) for _ in range(3)] == [2, 1, "nothing_to_roll_back_to"]


def test_activating_the_active_version_again_is_no_activation(api, versions):
    activate(api, 2)
    activate(api, 2)

    assert activations(api) == [(2, False), (1, False)]
    assert roll_back(api) == 1


def test_every_activation_is_kept_with_who_and_when(api, versions):
    activate(api, 2)
    roll_back(api)

    rows = api.get("/v1/products/bottle/activations").json()["activations"]

    assert activations(api) == [(1, True), (2, False), (1, False)]
    assert rows[0]["actor"] == rows[1]["actor"] != rows[2]["actor"] == "test"
    assert rows[0]["actor"].startswith("key_")
    assert rows[0]["at"] >= rows[1]["at"] >= rows[2]["at"]
    assert rows[0]["digest"] == rows[2]["digest"] != rows[1]["digest"]


def test_a_rollback_that_is_sent_again_happens_once(api, versions):
    for version in (2, 3):
        activate(api, version)

    assert roll_back(api, from_version=3) == 2
    assert roll_back(api, from_version=3) == 2
    assert activations(api)[0] == (2, True)
    assert len(activations(api)) == 4
    assert roll_back(api, from_version=1) == "another_version_is_active"
    assert roll_back(api, from_version=2) == 1


def test_a_product_that_was_never_active_cannot_be_rolled_back(api, manifest):
    api.post("/v1/products/cable/versions", json=manifest(api))

    answer = api.post("/v1/products/cable/rollback")

    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_roll_back_to")
    assert api.get("/v1/products/cable/activations").json() == {"activations": []}


def test_photos_after_a_rollback_are_judged_by_the_version_before(api, png, versions):
    activate(api, 2)
    roll_back(api)

    inspection = api.post("/v1/inspections", files={"file": ("a.png", png)}).json()
    assert inspection["model"]["version"] == 1
