"""A browser that is logged in: cookies, redirects that are looked at, and the page's token."""

import re
from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient

from shared.tables import Scope


class Browser:
    """Logged in through the form, as people are."""

    def __init__(self, client: TestClient, key: str) -> None:
        self.client = client
        answer = client.post("/login", data={"key": key})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        token = re.search(r'<meta name="csrf" content="(\w+)">', self.get("/").text)
        assert token is not None
        self.csrf = token[1]

    def get(self, path: str, **more: object) -> httpx.Response:
        return self.client.get(path, **more)  # type: ignore[arg-type]

    def post(self, path: str, **fields: object) -> httpx.Response:
        return self.client.post(path, data={"csrf": self.csrf, **fields})

    def submit(self, path: str, **fields: object) -> httpx.Response:
        """Post, and go to the page that follows."""
        answer = self.post(path, **fields)
        assert answer.status_code == 303, answer.text
        return self.get(answer.headers["location"])


@pytest.fixture
def log_in(app: TestClient, new_key: Callable[..., str]) -> Callable[..., Browser]:
    def log_in(*scopes: Scope, organisation_id: str = "org_plant") -> Browser:
        app.cookies.clear()
        return Browser(app, new_key(*scopes, organisation_id=organisation_id))

    return log_in


@pytest.fixture
def admin(log_in: Callable[..., Browser]) -> Browser:
    return log_in(Scope.ADMIN)
