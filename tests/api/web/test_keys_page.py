"""Keys and the audit log in the browser."""

import re

import pytest

from shared import keys
from shared.db import transaction
from shared.tables import ApiKey, Scope

HOSTILE = "<script>alert(1)</script>"


def shown_key(text):
    found = re.search(r"ds_[0-9a-z]+_[\w-]{32,}", text)
    return found and found[0]


@pytest.fixture
def create(admin):
    def create(**fields):
        return admin.submit("/keys", **{"name": "camera 2", "scopes": ["submit"], **fields})

    return create


def stored(name):
    with transaction() as session:
        return session.query(ApiKey).filter_by(name=name).one()


def test_a_new_key_is_shown_once_and_works(admin, create):
    shown = shown_key(create().text)

    assert keys.parse(shown)[0] == stored("camera 2").id
    assert shown_key(admin.get("/keys").text) is None
    admin.client.cookies.clear()
    headers = {"Authorization": f"Bearer {shown}"}
    assert admin.get("/v1/inspections", headers=headers).status_code == 403  # may submit only


def test_a_key_gets_the_limits_and_the_last_day_that_were_filled_in(create):
    create(expires_on="2031-03-31", requests_per_second="7", max_queued="3", scopes=["read"])
    row = stored("camera 2")

    assert (row.requests_per_second, row.max_queued, row.scopes) == (7, 3, ["read"])
    # The day counts to its end.
    assert row.expires_at.isoformat().startswith("2031-04-01T00:00:00")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scopes": []}, "scopes"),
        ({"name": " "}, "name"),
        ({"expires_on": "2020-01-01"}, "passed already"),
        ({"expires_on": "tomorrow"}, "not a day"),
        ({"requests_per_second": "many"}, "requests_per_second"),
    ],
)
def test_what_cannot_be_is_said_on_the_form_and_what_was_typed_stays(admin, fields, said):
    answer = admin.post("/keys", **{"name": "camera 2", "scopes": ["submit"], **fields})

    assert answer.status_code == 422
    assert said in re.search(r'role="alert">([^<]*)<', answer.text)[1]
    if "name" not in fields:
        assert 'value="camera 2"' in answer.text


def test_a_revoked_key_is_refused_at_once(admin, create):
    shown = shown_key(create(scopes=["read"]).text)
    key_id = keys.parse(shown)[0]
    headers = {"Authorization": f"Bearer {shown}"}
    assert admin.get("/v1/inspections", headers=headers).status_code == 200  # and is remembered

    page = admin.submit(f"/keys/{key_id}/revoke")

    assert "The key is revoked" in page.text
    assert admin.get("/v1/inspections", headers=headers).status_code == 401


def test_revoking_the_key_one_is_logged_in_with_warns_first_and_ends_the_session(admin):
    page = admin.get("/keys").text
    assert "Revoking it logs you out" in page
    key_id = stored("test").id

    answer = admin.post(f"/keys/{key_id}/revoke")

    assert answer.headers["location"] == "/login"
    assert admin.get("/keys").headers["location"].startswith("/login")


def test_names_are_text(admin, create):
    page = create(name=HOSTILE).text

    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert HOSTILE not in admin.get("/audit").text


def test_a_form_from_elsewhere_changes_nothing(admin):
    answer = admin.client.post("/keys", data={"name": "camera 2", "scopes": "admin"})

    assert answer.status_code == 403
    assert "camera 2" not in admin.get("/keys").text


@pytest.mark.parametrize("path", ["/keys", "/audit"])
def test_who_may_not_administrate_is_told_so(log_in, path):
    reader = log_in(Scope.READ, Scope.SUBMIT, Scope.REVIEW)
    answer = reader.get(path)

    assert answer.status_code == 403
    assert "lacks the scope" in answer.text
    assert reader.post("/keys", name="x", scopes="admin").status_code == 403


def test_the_keys_of_others_do_not_exist(log_in, create):
    key_id = keys.parse(shown_key(create().text))[0]
    stranger = log_in(Scope.ADMIN, organisation_id="org_stranger")

    answer = stranger.post(f"/keys/{key_id}/revoke")

    assert answer.status_code == 404
    assert "<h1>" in answer.text
    assert "camera 2" not in stranger.get("/keys").text
    assert stored("camera 2").revoked_at is None


def test_the_audit_log_tells_who_did_what_in_pages(admin, create):
    for number in range(60):
        create(name=f"camera {number}")
    first = admin.get("/audit").text
    older = re.search(r'href="(/audit\?page_token=\w+)"', first)[1]
    second = admin.get(older).text

    assert "name: camera 59" in first
    assert "name: camera 0<" not in first
    assert "name: camera 0<" in second
    assert first.count("key created") + second.count("key created") == 61
    assert admin.get("/audit?page_token=x").status_code == 422
