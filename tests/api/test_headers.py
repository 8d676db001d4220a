"""Headers of every answer."""

import re

import pytest


@pytest.mark.parametrize("path", ["/v1/products", "/healthz", "/nowhere", "/docs"])
def test_every_answer_tells_the_browser_what_it_may_not_do(api, path):
    headers = api.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


def test_an_answer_to_a_surprise_has_them_too(api, monkeypatch):
    def surprise(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("api.routes.audit.audit.page", surprise)
    api._transport.raise_server_exceptions = False
    answer = api.get("/v1/audit")

    assert answer.status_code == 500
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_answers_run_nothing_and_are_not_kept(api):
    headers = api.get("/v1/products").headers

    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert headers["Cache-Control"] == "no-store"


def test_the_documentation_asks_nobody_but_us(api):
    page = api.get("/docs")

    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    named = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert named
    assert all(name.startswith("/static-offline-docs/") for name in named)
    assert all(api.get(name).status_code == 200 for name in named)
    assert api.get("/redoc").status_code == 404


def test_pictures_are_kept_as_their_route_says(api, png):
    id_ = api.post("/v1/inspections", files={"file": png}).json()["id"]
    headers = api.get(f"/v1/inspections/{id_}/image").headers

    assert headers.get_list("Cache-Control") == ["private, max-age=86400, immutable"]
    assert headers.get_list("X-Content-Type-Options") == ["nosniff"]


def test_only_over_https_is_https_asked_for(api):
    assert "Strict-Transport-Security" not in api.get("/healthz").headers
    assert "Strict-Transport-Security" in api.get("https://testserver/healthz").headers


def test_no_other_site_may_read_answers(api):
    """CORS is off: a preflight is answered like any method that is not there."""
    answer = api.options(
        "/v1/inspections",
        headers={"Origin": "https://elsewhere", "Access-Control-Request-Method": "POST"},
    )

    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]
