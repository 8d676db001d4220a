"""The `products` and `keys` commands, through the client and the real gateway in this process."""

import json

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from api.client import DefectScope, DefectScopeApiError
from api.main import make_app
from deploy import administration, cli
from deploy.terminal import CommandError
from shared import keys, products
from shared.db import transaction
from shared.settings import get_settings
from shared.tables import Scope


@pytest.fixture
def run(organisation, make_manifest, monkeypatch):
    """Runs a command against a service with bottle@1 active and bottle@2 published."""
    get_settings.cache_clear()
    with transaction() as session:
        products.publish(
            session,
            organisation_id=organisation,
            manifest=make_manifest(seed=2),
            is_stored=lambda _: True,
            actor="test",
        )
        _, key = keys.create_key(
            session,
            organisation_id=organisation,
            name="test",
            scopes=frozenset({Scope.ADMIN}),
            actor="test",
        )
    with TestClient(make_app()) as app:

        def answer(request):
            said = app.request(
                request.method,
                request.url.raw_path.decode(),
                content=request.read(),
                headers=dict(request.headers),
            )
            return httpx.Response(said.status_code, content=said.content)

        monkeypatch.setattr(
            administration,
            "get_client",
            lambda: DefectScope("http://testserver", key, transport=httpx.MockTransport(answer)),
        )

        def run(*arguments, group="products"):
            result = CliRunner().invoke(cli.app, [group, *arguments])
            if result.exception:
                raise result.exception
            return result.stdout

        yield run


def bottle(run):
    (product,) = json.loads(run("list", "--json"))
    return product["active_version"], product["shadow_version"]


def test_activate_and_roll_back(run):
    run("activate", "bottle", "2")
    assert bottle(run) == (2, None)

    run("rollback", "bottle")
    assert bottle(run) == (1, None)

    with pytest.raises(DefectScopeApiError, match="Nothing was active before bottle@1"):
        run("rollback", "bottle")


def test_a_shadow_is_started_looked_at_and_stopped(run):
    assert "bottle@2 in the shadow of bottle@1" in run("shadow", "bottle", "2")
    assert bottle(run) == (1, 2)
    assert json.loads(run("shadow", "bottle", "--json"))["shadow_version"] == 2
    assert "judged by both: 0" in run("shadow", "bottle")

    run("shadow", "bottle", "--stop")
    assert bottle(run) == (1, None)


def test_looking_starts_nothing(run):
    with pytest.raises(DefectScopeApiError, match="has no shadow"):
        run("shadow", "bottle")
    assert bottle(run) == (1, None)


def test_start_and_stop_at_once_is_refused(run):
    with pytest.raises(CommandError, match="not both"):
        run("shadow", "bottle", "2", "--stop")
    assert bottle(run) == (1, None)


def test_the_list_names_both_versions(run):
    run("shadow", "bottle", "2")

    assert run("list").split() == ["product", "active", "shadow", "bottle", "1", "2"]


def test_a_key_is_made_used_listed_and_revoked(run):
    key = run("create", "--name", "line 2", "--scope", "submit", "--days", "30", group="keys")
    scopes = ("--scope", "read", "--scope", "submit")
    made = json.loads(run("create", "--name", "mes", *scopes, "--json", group="keys"))

    assert key.startswith("ds_")
    assert made["scopes"] == ["read", "submit"]
    listed = run("list", group="keys")
    assert "line 2" in listed
    assert key.strip().split("_", 2)[2] not in listed
    run("revoke", made["id"], group="keys")
    (row,) = [
        row for row in json.loads(run("list", "--json", group="keys")) if row["id"] == made["id"]
    ]
    assert row["revoked_at"]


def test_pictures_are_kept_for_so_many_days_or_for_ever(run):
    run("retention", "bottle", "--days", "30")
    assert json.loads(run("list", "--json"))[0]["retention_days"] == 30

    run("retention", "bottle")
    assert json.loads(run("list", "--json"))[0]["retention_days"] is None
