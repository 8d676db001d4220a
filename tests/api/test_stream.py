"""Who hears what of the live list, and for how long."""

import asyncio
from threading import Thread

import pytest
import redis.asyncio
from sse_starlette.event import ServerSentEvent

from api import stream as stream_module
from api.auth import COOKIE
from api.news import News
from api.stream import Stream
from shared import keys, sessions
from shared.db import transaction
from shared.errors import TooMany
from shared.settings import get_settings
from shared.tables import Scope

BASE = "http://testserver"


async def allowed():
    return True


async def refused():
    return False


def listening(stream, organisation_id="org_plant", key_id="key_1", may_listen=allowed):
    """The task of the next event; it listens once the loop has turned."""
    events = stream.listen(organisation_id, BASE, key_id, may_listen)
    return asyncio.ensure_future(anext(events))


def test_who_may_not_read_hears_nothing(app, new_key):
    assert app.get("/v1/stream").status_code == 401
    for scope in (Scope.SUBMIT, Scope.REVIEW):
        headers = {"X-API-Key": new_key(scope)}
        assert app.get("/v1/stream", headers=headers).status_code == 403


def test_an_organisation_hears_of_its_own_inspections_and_of_no_others(api, png, judge_all):
    api.post("/v1/inspections", files={"file": ("a.png", png)})
    ids = judge_all()

    async def hear():
        stream = Stream()
        await stream.start()
        own, foreign = listening(stream), listening(stream, "org_stranger")
        await asyncio.sleep(0)
        stream.note(ids)
        event = await asyncio.wait_for(own, 10)
        await asyncio.sleep(0)  # both were told in the same turn
        assert not foreign.done()
        foreign.cancel()
        await stream.stop()
        return event

    event = asyncio.run(hear())
    assert event.event == "inspection"
    assert ids[0] in event.data


@pytest.mark.parametrize("has_news", [True, False])
def test_a_key_that_is_gone_hears_no_more_also_on_a_busy_line(monkeypatch, has_news):
    monkeypatch.setattr(stream_module, "_CHECK_SECONDS", 0.0)

    async def hear():
        stream = Stream()
        waiting = listening(stream, may_listen=refused)
        await asyncio.sleep(0)
        if has_news:
            stream._tell_all(ServerSentEvent(event="inspection", data="{}"))
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(hear())


def test_a_key_that_is_revoked_hears_no_more_at_once():
    async def hear():
        stream = Stream()
        gone = listening(stream, key_id="key_gone", may_listen=refused)
        other = listening(stream, key_id="key_other", may_listen=refused)
        await asyncio.sleep(0)
        stream.forget(["key_gone"])
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(gone, 10)
        assert not other.done()
        other.cancel()

    asyncio.run(hear())


@pytest.fixture
def token(new_key):
    with transaction() as session:
        return sessions.log_in(session, new_key(Scope.READ))


def end_session(token):
    with transaction() as session:
        sessions.log_out(session, token)


def revoke(token):
    with transaction() as session:
        caller = sessions.find(session, token).caller
        keys.revoke_key(
            session, organisation_id=caller.organisation_id, key_id=caller.key_id, actor="test"
        )


@pytest.mark.parametrize("end", [end_session, revoke])
def test_a_page_hears_no_more_after_its_session(app, monkeypatch, token, end):
    monkeypatch.setattr(stream_module, "_CHECK_SECONDS", 0.1)
    app.cookies.set(COOKIE, token)
    listening = Thread(target=app.get, args=("/v1/stream",), daemon=True)
    listening.start()
    listening.join(timeout=1)
    assert listening.is_alive()  # several looks found it valid

    end(token)
    listening.join(timeout=10)
    assert not listening.is_alive()


def test_after_a_gap_everybody_looks_at_the_whole_list():
    async def hear():
        stream = Stream()
        event = listening(stream)
        await asyncio.sleep(0)
        stream.catch_up()
        return await asyncio.wait_for(event, 10)

    assert asyncio.run(hear()).event == "reload"


def test_messages_are_missed_while_redis_is_away_and_not_at_the_start(services):
    heard, gaps = [], []

    async def run():
        news = News(get_settings().redis_url, {"channel": heard.append}, lambda: gaps.append(1))
        await news.start()
        async with redis.asyncio.Redis.from_url(get_settings().redis_url) as client:
            await until_heard(client, heard)
            assert gaps == []
            await client.client_kill_filter(_type="pubsub")
            heard.clear()
            await until_heard(client, heard)
        await news.stop()

    asyncio.run(run())
    assert gaps == [1]


async def until_heard(client, heard):
    async with asyncio.timeout(10):
        while not heard:
            await client.publish("channel", "word")
            await asyncio.sleep(0.05)


def test_one_key_does_not_take_the_places_of_all(monkeypatch):
    monkeypatch.setattr(stream_module, "_MOST_OF_ONE_KEY", 2)

    async def hear():
        stream = Stream()
        waiting = [listening(stream) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            stream.check_room("key_1")
        stream.check_room("key_2")
        for one in waiting:
            one.cancel()

    asyncio.run(hear())
