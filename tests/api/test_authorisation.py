"""Every route by no key, by a missing scope, by a foreign organisation.

The routes come from the OpenAPI document. A route with a path parameter that is not known here
fails the test, so that a new one cannot be forgotten.
"""

import hashlib
import itertools
import re

import pytest

from api.main import make_app
from api.web import pages
from shared import products, shadows
from shared.db import transaction
from shared.tables import Scope
from shared.verdicts import ReviewReason

OPEN = {"/healthz", "/readyz"}
# What is named by its digest is not named by its owner: whoever knows the digest has the file.
BY_DIGEST = {"/v1/artifacts/{digest}"}
# Never ends for whoever may read: test_stream.py has what organisations hear.
ENDLESS = ("get", "/v1/stream")
# Publishing makes the product of that name for whoever asks.
MAKES_ITS_OWN = {("post", "/v1/products/{name}/versions")}


def operations():
    for path, methods in make_app().openapi()["paths"].items():
        if path not in OPEN:
            for method in methods:
                yield method, path


OPERATIONS = sorted(operations())
FOREIGN = [
    (method, path)
    for method, path in OPERATIONS
    if "{" in path and path not in BY_DIGEST and (method, path) not in MAKES_ITS_OWN
]
# What has to be sent so that the path is looked up at all.
HOOK = {"url": "https://93.184.216.34/hook"}
LEASE = {"lease_token": "0123"}
THRESHOLDS = {
    "defect_probability": 0.5,
    "near_threshold_low": 0.4,
    "near_threshold_high": 0.6,
    "anomaly_score": 4.0,
    "domain_distance": 50.0,
}
INSPECTION = "insp_" + "0" * 26
BODIES = {
    ("put", "/v1/products/{name}/audit"): {"share": 0.01},
    ("put", "/v1/products/{name}/thresholds"): THRESHOLDS,
    ("post", "/v1/reviews/{review_id}/extend"): LEASE,
    ("post", "/v1/reviews/{review_id}/release"): LEASE,
    ("post", "/v1/reviews/{review_id}/decision"): {**LEASE, "verdict": "good"},
    ("put", "/v1/products/{name}/retention"): {"days": 30},
    ("put", "/v1/webhooks/{endpoint_id}"): HOOK,
    ("post", "/v1/webhooks/{endpoint_id}/replay"): {"lot": "L7"},
}


ORDER = ("head", "get", "put", "post", "delete")


@pytest.fixture
def things(api, png, photo, judge_all, make_manifest, organisation):
    """One of everything that a path can name, all of the same organisation."""
    batch = api.post("/v1/batches", files=[("file", png)]).json()
    (judged,) = judge_all(reasons=(ReviewReason.NEAR_THRESHOLD,))
    announced = {
        "media_type": "image/png",
        "bytes": len(png),
        "sha256": hashlib.sha256(png).hexdigest(),
    }
    upload = api.post("/v1/uploads", json=announced)
    key = api.post("/v1/keys", json={"name": "spare", "scopes": ["read"]})
    endpoint = api.post("/v1/webhooks", json=HOOK).json()["id"]
    delivery = api.post(f"/v1/webhooks/{endpoint}/test")
    with transaction() as session:
        products.publish(
            session,
            organisation_id=organisation,
            manifest=make_manifest("bottle", seed=7),
            is_stored=lambda _: True,
            actor="test",
        )
        shadows.start(session, organisation_id=organisation, name="bottle", version=2, actor="test")
    return {
        "inspection_id": judged,
        "review_id": api.get(f"/v1/inspections/{judged}").json()["review"]["id"],
        "batch_id": batch["id"],
        "upload_id": upload.json()["upload_id"],
        "key_id": key.json()["id"],
        "endpoint_id": endpoint,
        "delivery_id": delivery.json()["id"],
        "name": "bottle",
        "version": "2",
        "digest": "sha256:" + "0" * 64,
    }


def address(path, things):
    return re.sub(r"{(\w+)}", lambda match: things[match[1]], path)


def test_without_a_key_nothing_is_answered(app, organisation):
    known = {"version": "1", "digest": "sha256:" + "0" * 64, "name": "x"} | dict.fromkeys(
        (
            *("inspection_id", "review_id", "batch_id", "upload_id", "key_id"),
            *("endpoint_id", "delivery_id"),
        ),
        "x",
    )
    wrong = ({}, {"Authorization": "Bearer ds_00000000_" + "x" * 43}, {"X-API-Key": "?"})
    for (method, path), headers in itertools.product(OPERATIONS, wrong):
        answer = app.request(method, address(path, known), headers=headers)

        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        if method != "head":
            assert answer.json()["code"] == "unauthenticated"


def test_one_scope_opens_a_route_and_the_others_do_not(app, new_key, things):
    keys = {scope: new_key(scope) for scope in (Scope.SUBMIT, Scope.READ, Scope.REVIEW)}
    for method, path in OPERATIONS:
        url, allowed = address(path, things), set()
        for scope, key in keys.items():
            if (method, path) == ENDLESS and scope is Scope.READ:
                continue
            answer = app.request(method, url, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code == 403:
                assert method == "head" or answer.json()["code"] == "missing_scope"
            else:
                allowed.add(scope)

        assert len(allowed) <= 1, (method, path)
        assert (Scope.SUBMIT if method == "get" else Scope.READ) not in allowed, (method, path)
        if (method, path) != ENDLESS:  # the key that may do everything
            assert app.request(method, url).status_code not in {401, 403}, (method, path)


def test_no_page_shows_itself_to_who_is_not_logged_in(app, organisation):
    routes = [route for router in pages._ROUTERS for route in router.routes]
    assert len(routes) > 20
    for route in routes:
        if route.path == "/login":
            continue
        for method in route.methods:
            url = re.sub(r"{\w+(:\w+)?}", "1", route.path.replace("{inspection_id}", INSPECTION))
            answer = app.request(method, url)

            assert answer.status_code == 303, (method, route.path)
            assert answer.headers["location"].startswith("/login?next=/"), (method, route.path)


def test_no_page_changes_anything_by_the_cookie_alone(app, new_key, things):
    admin = {"key": new_key(Scope.ADMIN)}
    del app.headers["Authorization"]
    assert app.post("/login", data=admin).status_code == 303
    posts = [
        route.path
        for router in pages._ROUTERS
        for route in router.routes
        if "POST" in route.methods
    ]
    assert len(posts) > 10
    for path in posts:
        if path != "/login":
            url = re.sub(r"{(\w+)(:\w+)?}", lambda match: things.get(match[1], "1"), path)
            answer = app.post(url, data={"csrf": "0" * 64})

            assert answer.status_code == 403, path


def test_what_belongs_to_somebody_else_is_not_there(app, new_key, things):
    key = new_key(Scope.ADMIN, organisation_id="org_stranger")
    for operation in FOREIGN:
        method, path = operation
        answer = app.request(
            method,
            address(path, things),
            headers={"Authorization": f"Bearer {key}"},
            json=BODIES.get(operation),
        )
        assert answer.status_code == 404, operation
    # It is there for its owner, or the 404 would prove nothing. What changes things comes last.
    for operation in sorted(FOREIGN, key=lambda operation: ORDER.index(operation[0])):
        method, path = operation
        answer = app.request(method, address(path, things), json=BODIES.get(operation))
        assert answer.status_code != 404, operation


def test_lists_of_somebody_else_are_empty(app, new_key, things):
    stranger = {"Authorization": f"Bearer {new_key(Scope.ADMIN, organisation_id='org_stranger')}"}
    for method, path in OPERATIONS:
        if method != "get" or "{" in path or (method, path) == ENDLESS:
            continue
        own = app.get(path).text
        answer = app.get(path, headers=stranger)

        assert answer.status_code == 200
        for kind in ("inspection_id", "review_id", "batch_id", "key_id", "endpoint_id"):
            assert things[kind] not in answer.text
        if path in {"/v1/inspections", "/v1/keys", "/v1/webhooks"}:
            assert any(things[kind] in own for kind in ("inspection_id", "key_id", "endpoint_id"))


def test_a_photo_of_somebody_else_cannot_be_had_through_ones_own_submission(
    app, new_key, things, make_manifest
):
    key = new_key(Scope.ADMIN, organisation_id="org_stranger")
    with transaction() as session:
        products.publish(
            session,
            organisation_id="org_stranger",
            manifest=make_manifest("bottle", seed=9),
            is_stored=lambda _: True,
            actor="test",
        )
        products.activate(
            session, organisation_id="org_stranger", name="bottle", version=1, actor="test"
        )
    stranger = {"Authorization": f"Bearer {key}"}

    answer = app.post("/v1/inspections", json={"upload_id": things["upload_id"]}, headers=stranger)
    assert answer.status_code == 404

    answer = app.post(
        "/v1/batches",
        files=[("file", b"x")],
        data={"batch_id": things["batch_id"]},
        headers=stranger,
    )
    assert answer.status_code == 404
