"""Lists that one key has read at once."""

import asyncio

import pytest

from api.looks import AT_ONCE, Looks
from shared.errors import TooMany
from shared.keys import Caller
from shared.tables import Scope

CALLER = Caller("key_1", "org_1", frozenset({Scope.READ}))
OTHER = Caller("key_2", "org_1", frozenset({Scope.READ}))


async def held(looks, caller, stack, count):
    for _ in range(count):
        place = looks.place(caller)
        await place.__aenter__()
        stack.append(place)


def test_a_key_that_has_all_its_places_waits_for_one_and_others_do_not():
    async def go():
        looks, places = Looks(), []
        await held(looks, CALLER, places, AT_ONCE)
        waiting = asyncio.create_task(held(looks, CALLER, places, 1))
        await held(looks, OTHER, places, AT_ONCE)
        assert not waiting.done()

        await places.pop(0).__aexit__(None, None, None)
        await waiting

    asyncio.run(go())


def test_who_gets_no_place_is_told_to_come_back(monkeypatch):
    monkeypatch.setattr("api.looks._PATIENCE_SECONDS", 0.01)

    async def go():
        looks, places = Looks(), []
        await held(looks, CALLER, places, AT_ONCE)
        with pytest.raises(TooMany) as refused:
            await held(looks, CALLER, places, 1)
        assert refused.value.code == "too_many_lists"
        assert refused.value.retry_after.total_seconds() == 1

    asyncio.run(go())


def test_a_place_is_free_again_after_an_answer_and_after_an_error(api, monkeypatch):
    monkeypatch.setattr("api.looks._PATIENCE_SECONDS", 0.01)
    for _ in range(AT_ONCE + 1):
        assert api.get("/v1/inspections").status_code == 200
        assert api.get("/v1/inspections", params={"page_token": "x"}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/v1/inspections",
        f"/v1/batches/batch_{'0' * 26}",
        "/v1/products/bottle/versions",
        "/v1/products/bottle/shadow",
        "/v1/products/bottle/shadow/disagreements",
    ],
)
def test_what_filters_or_counts_needs_a_place(api, monkeypatch, path):
    monkeypatch.setattr("api.looks._PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("api.looks.AT_ONCE", 0)

    refused = api.get(path)

    assert refused.status_code == 429
    assert refused.json()["code"] == "too_many_lists"
    assert refused.headers["Retry-After"] == "1"
    assert api.get("/v1/products").status_code == 200
