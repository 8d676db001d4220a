"""Bounds on what waits and on what is received at once."""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.admission import Admission
from shared.errors import TooMany
from shared.keys import Caller
from shared.settings import get_settings
from shared.storage.folder import LocalStorage
from shared.tables import Scope

CALLER = Caller("key_1", "org_1", frozenset({Scope.SUBMIT}))


@pytest.fixture
def door(services):
    return Admission(
        get_settings().model_copy(update={"max_queued": 2, "max_receiving_bytes": 1000})
    )


def test_a_full_queue_is_told_with_a_time_to_come_back(api, png, wait_until):
    api.app.state.gateway.door._most_queued = 1
    first = api.post("/v1/inspections", files={"file": png})
    assert first.status_code == 202
    # The depth is looked up once a second.
    wait_until(lambda: api.app.state.gateway.door._queued.total() >= 1, "the look")

    refused = api.post("/v1/inspections", files={"file": png})

    assert refused.status_code == 429
    assert refused.json()["code"] == "queue_full"
    assert int(refused.headers["Retry-After"]) > 0
    # What is there can be asked for all the same.
    assert api.get(first.headers["Location"]).status_code == 200
    api.post(f"{first.headers['Location']}/cancel")
    wait_until(lambda: api.app.state.gateway.door._queued.total() == 0, "the look")
    assert api.post("/v1/inspections", files={"file": png}).status_code == 202


def test_a_full_queue_refuses_before_the_photo_is_read(api, png, monkeypatch):
    async def read(*_, **__):
        raise AssertionError("it was read")

    monkeypatch.setattr("api.routes.inspections.read_submission", read)
    api.app.state.gateway.door._most_queued = 0

    assert api.post("/v1/inspections", files={"file": png}).status_code == 429


def test_no_more_than_so_many_bytes_are_received_at_once(door):
    with door.room(CALLER) as first, door.room(CALLER) as second:
        first.take(600)
        with pytest.raises(TooMany) as refused:
            second.take(500)
        assert refused.value.code == "too_many_at_once"
        second.take(400)
    with door.room(CALLER) as alone:
        alone.take(5000)  # a batch fits, whatever the setting


def test_a_submission_that_fails_gives_its_room_back(door):
    def fail():
        with door.room(CALLER) as room:
            room.take(600)
            raise RuntimeError

    for _ in range(5):
        with pytest.raises(RuntimeError):
            fail()
    assert door._held == 0


def test_a_photo_that_finds_no_room_is_told_to_come_back(api, png):
    door = api.app.state.gateway.door
    door._held = door._most_held
    refused = api.post("/v1/inspections", files={"file": png})
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_at_once")
    assert refused.headers["Retry-After"] == "1"
    door._held = 0
    assert api.post("/v1/inspections", files={"file": png}).status_code == 202
    assert door._held == 0


def test_with_the_database_away_the_last_look_stands_and_looking_goes_on(door, monkeypatch):
    from api import admission
    from shared.errors import DatabaseUnavailable

    answers = iter([DatabaseUnavailable("away"), ValueError("surprise")])

    def count(most):
        answer = next(answers, Counter(somebody=2))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(admission, "_count", count)
    monkeypatch.setattr(admission, "_LOOK_SECONDS", 0.01)

    async def look():
        await door.start()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if door._queued.total() == 2:
                break
        await door.stop()

    asyncio.run(look())
    with pytest.raises(TooMany), door.room(CALLER):
        pass


def test_submissions_that_a_store_hangs_up_are_in_nobodys_way_but_their_own(
    api, png, monkeypatch, wait_until
):
    """As many submissions as there are threads for everything."""
    monkeypatch.setattr("api.admission._PATIENCE_SECONDS", 1.0)
    is_back = threading.Event()
    hanging = threading.Semaphore(0)
    put = LocalStorage.put

    def hang(*args):
        hanging.release()
        assert is_back.wait(30)
        put(*args)

    monkeypatch.setattr(LocalStorage, "put", hang)
    with ThreadPoolExecutor(50) as stations:
        submitted = [
            stations.submit(lambda: api.post("/v1/inspections", files={"file": png}))
            for _ in range(50)
        ]
        for _ in range(16):
            assert hanging.acquire(timeout=30)

        assert api.get("/v1/products").status_code == 200
        wait_until(
            lambda: sum(one.done() for one in submitted) == 34, "the others' patience to end"
        )
        is_back.set()
        answers = [one.result() for one in submitted]

    assert Counter(answer.status_code for answer in answers) == {202: 16, 503: 34}
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.json()["code"] == "storage_unavailable"
    assert refused.headers["Retry-After"]
    monkeypatch.setattr(LocalStorage, "put", put)
    assert api.post("/v1/inspections", files={"file": png}).status_code == 202
