"""Keys over HTTP, and the audit log that tells of them."""

import importlib
import pkgutil

import pytest
from cachetools import TTLCache

from api import routes
from api.auth import FIRST
from shared.tables import Scope


@pytest.fixture
def create(api):
    def create(**changes):
        return api.post("/v1/keys", json={"name": "line 2", "scopes": ["submit"], **changes})

    return create


def test_a_new_key_is_shown_once_and_works(api, create, png):
    answer = create(requests_per_second=7, max_queued=3)
    assert answer.status_code == 201
    made = answer.json()

    assert made["key"].startswith("ds_")
    assert made["scopes"] == ["submit"]
    (listed,) = [key for key in api.get("/v1/keys").json()["keys"] if key["id"] == made["id"]]
    secret = made.pop("key")
    assert listed == made
    assert secret.split("_", 2)[2] not in api.get("/v1/keys").text
    headers = {"Authorization": f"Bearer {secret}"}
    assert api.post("/v1/inspections", files={"file": png}, headers=headers).status_code == 202
    assert api.get("/v1/inspections", headers=headers).status_code == 403


def test_a_revoked_key_is_refused_at_once(api, create):
    made = create(scopes=["read"]).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert api.get("/v1/inspections", headers=headers).status_code == 200  # and is remembered

    assert api.delete(f"/v1/keys/{made['id']}").status_code == 204
    assert api.get("/v1/inspections", headers=headers).status_code == 401
    assert api.delete(f"/v1/keys/{made['id']}").status_code == 204


def test_another_process_hears_that_a_key_was_revoked(api, create, wait_until, monkeypatch):
    """It learns it over Redis: here the message alone is sent."""
    from api import auth
    from shared.queue import tell_revoked

    # Forgotten by itself only long after this test has failed.
    monkeypatch.setattr(auth, "_remembered", TTLCache(maxsize=16, ttl=600))

    made = create(scopes=["read"]).json()
    api.get("/v1/inspections", headers={"Authorization": f"Bearer {made['key']}"})

    def is_remembered():
        return made["id"] in {caller.key_id for caller in auth._remembered.values()}

    assert is_remembered()
    tell_revoked(made["id"])
    wait_until(lambda: not is_remembered(), "the news")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
        ({"expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"max_queued": 2**31}, "max_queued"),
        ({"key": "ds_mine"}, "key"),
    ],
)
def test_a_key_that_cannot_be_is_refused(create, changes, field):
    answer = create(**changes)

    assert answer.status_code == 422
    assert answer.json()["field"].startswith(field)


def test_the_audit_log_tells_who_did_what(api, create):
    me = api.get("/v1/keys").json()["keys"][-1]["id"]
    made = create().json()
    api.delete(f"/v1/keys/{made['id']}")

    revoked, created, *_ = api.get("/v1/audit").json()["entries"]

    assert (revoked["action"], revoked["subject"], revoked["actor"]) == (
        *("key.revoked", made["id"]),
        me,
    )
    assert (created["action"], created["subject"], created["actor"]) == (
        *("key.created", made["id"]),
        me,
    )
    assert created["detail"]["scopes"] == ["submit"]
    assert made["key"].split("_", 2)[2] not in api.get("/v1/audit").text


def test_revoking_twice_is_one_entry(api, create):
    made = create().json()
    for _ in range(2):
        api.delete(f"/v1/keys/{made['id']}")

    actions = [entry["action"] for entry in api.get("/v1/audit").json()["entries"]]
    assert actions.count("key.revoked") == 1


def test_the_audit_log_comes_in_pages(api, create):
    for _ in range(4):
        create()
    seen, token = [], ""
    while True:
        page = api.get("/v1/audit", params={"page_size": 3, "page_token": token}).json()
        seen += page["entries"]
        token = page["next_page_token"]
        if not token:
            break

    assert seen == api.get("/v1/audit").json()["entries"]
    assert len(seen) > 4
    assert api.get("/v1/audit", params={"page_token": "x"}).status_code == 422


def test_the_audit_log_is_for_administrators_of_the_organisation(app, api, new_key, create):
    create()
    stranger = new_key(Scope.ADMIN, organisation_id="org_stranger")
    (entry,) = api.get("/v1/audit", headers={"Authorization": f"Bearer {stranger}"}).json()[
        "entries"
    ]

    assert entry["action"] == "key.created"  # the stranger's own key


def test_every_route_that_asks_for_a_scope_has_found_the_caller_before():
    def calls(dependant):
        for one in dependant.dependencies:
            yield from calls(one)
            yield one.call

    asking = 0
    for module in pkgutil.iter_modules(routes.__path__):
        router = importlib.import_module(f"api.routes.{module.name}").router
        for route in router.routes:
            found = [call for call in calls(route.dependant) if hasattr(call, "__name__")]
            names = [f"{call.__module__}.{call.__name__}" for call in found]
            scopes = [
                n for n, name in enumerate(names) if name in ("api.auth.check", "api.auth.look")
            ]
            if scopes:
                asking += 1
                assert found.index(FIRST.dependency) < min(scopes), route.path
    assert asking > 40
