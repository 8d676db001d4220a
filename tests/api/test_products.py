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
        files = {"backbone": put(api, b"backbone"), "model": put(api, b"model")}
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
