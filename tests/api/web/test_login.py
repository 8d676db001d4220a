"""Getting in, and what a page of somebody else cannot do with the cookie of who is in."""

import pytest

from api.auth import COOKIE
from shared.tables import Scope

UNKNOWN = "ds_0123456789abcdef_" + "x" * 43


@pytest.fixture
def key(new_key, app):
    app.cookies.clear()
    return new_key(Scope.ADMIN)


def cookie_of(answer):
    name, *attributes = answer.headers["set-cookie"].split("; ")
    return name.split("=")[0], {attribute.lower() for attribute in attributes}


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(app, key):
    name, attributes = cookie_of(app.post("/login", data={"key": key}))

    assert name == COOKIE
    assert attributes >= {"httponly", "samesite=lax", "path=/"}
    assert "secure" not in attributes  # over plain http a browser would throw it away


def test_over_https_the_cookie_is_sent_nowhere_else(app, key):
    _, attributes = cookie_of(app.post("https://testserver/login", data={"key": key}))

    assert "secure" in attributes


@pytest.fixture
def _https_outside(monkeypatch):
    monkeypatch.setenv("DEFECTSCOPE_PUBLIC_URL", "https://inspection.plant")


@pytest.mark.usefixtures("_https_outside")
def test_behind_a_proxy_that_speaks_https_it_is_not_either(app, key):
    """What a proxy says is believed of one on this machine only, and theirs may stand elsewhere."""
    answer = app.post("/login", data={"key": key})

    assert "secure" in cookie_of(answer)[1]
    assert answer.headers["Strict-Transport-Security"]


def test_a_wrong_key_gets_no_cookie_and_is_not_shown_again(app, organisation):
    answer = app.post("/login", data={"key": UNKNOWN})

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert UNKNOWN not in answer.text


def test_a_token_that_somebody_planted_is_not_taken_over(app, key):
    app.cookies.set(COOKIE, "planted")
    answer = app.post("/login", data={"key": key})

    assert "planted" not in answer.headers["set-cookie"]
    app.cookies.clear()
    app.cookies.set(COOKIE, "planted")
    assert app.get("/keys").status_code == 303


def test_logging_in_anew_ends_the_session_before(app, key):
    first = app.post("/login", data={"key": key}).cookies[COOKIE]
    second = app.post("/login", data={"key": key}).cookies[COOKIE]

    for token, status in ((first, 303), (second, 200)):
        app.cookies.clear()
        app.cookies.set(COOKIE, token)
        assert app.get("/keys").status_code == status


@pytest.mark.parametrize("address", ["/", "/inspections?lot=a&verdict=good", "/review/a//b", "/ä"])
def test_after_logging_in_one_is_where_one_wanted_to_go(app, key, address):
    answer = app.post("/login", data={"key": key, "next": address})

    assert answer.headers["location"] == address.replace("ä", "%C3%A4")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "\t//evil.example",
        ),
        *("/\t\\evil.example", "https://evil.example", "https:evil.example", "javascript:alert(1)"),
        *("/\r\nSet-Cookie: a=b", "/\0", "//[evil", "[", "evil.example", ""),
    ],
)
def test_a_link_leads_from_our_login_to_nobody_else(app, key, address):
    assert app.get("/login", params={"next": address}).status_code == 200
    answer = app.post("/login", data={"key": key, "next": address})

    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "a=b" not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://testserver", 303),
        ("https://testserver", 303),  # a proxy speaks TLS
        ("http://evil.example", 403),
        ("http://testserver.evil.example", 403),
        ("http://testserver:81", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_over_plain_http_the_origin_says_who_sent_the_form(app, key, origin, status):
    """Browsers leave out Sec-Fetch-Site there."""
    answer = app.post("/login", data={"key": key}, headers={"Origin": origin})

    assert answer.status_code == status
    # With no-referrer the origin of our own form would be null.
    assert app.get("/login").headers["Referrer-Policy"] == "same-origin"


@pytest.mark.usefixtures("_https_outside")
def test_a_proxy_may_call_us_otherwise_than_browsers_do(app, key):
    origin = {"Origin": "https://inspection.plant"}
    assert app.post("/login", data={"key": key}, headers=origin).status_code == 303


def test_another_site_logs_nobody_in(app, key):
    answer = app.post("/login", data={"key": key}, headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_with_the_cookie_alone_nothing_is_changed(log_in, app):
    admin = log_in(Scope.ADMIN)
    wanted = {"name": "mine", "scopes": ["admin"]}

    for csrf in ("", "0" * 64, admin.csrf[:-1], "\ud800"):
        headers = {"X-CSRF-Token": csrf} if csrf.isascii() else {}
        answer = app.post("/v1/keys", json=wanted, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_page")
        form = {"csrf": csrf.encode(errors="replace").decode(), "name": "mine", "scopes": "admin"}
        assert app.post("/keys", data=form).status_code == 403
    assert app.post("/logout", data={}).status_code == 403
    assert [one["name"] for one in app.get("/v1/keys").json()["keys"]] == ["test"]
    answer = app.post("/v1/keys", json=wanted, headers={"X-CSRF-Token": admin.csrf})
    assert answer.status_code == 201
