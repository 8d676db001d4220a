"""Token buckets: of one process, of two that share Redis, and at the HTTP surface."""

import asyncio

import pytest
import redis.asyncio

from api.rates import Bucket, Rates
from shared.errors import TooMany
from shared.keys import Caller
from shared.settings import get_settings
from shared.tables import Scope

CALLER = Caller("key_1", "org_1", frozenset({Scope.SUBMIT}), requests_per_second=10)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def spend_all(rates, caller=CALLER):
    count = 0
    while True:
        try:
            rates.take(caller)
        except TooMany:
            return count
        count += 1


def test_two_seconds_worth_can_be_spent_at_once_and_comes_back_with_time(services, clock):
    rates = Rates(get_settings(), clock)

    assert spend_all(rates) == 20
    clock.now += 0.5
    assert spend_all(rates) == 5
    clock.now += 100
    assert spend_all(rates) == 20


def test_the_refusal_says_when_to_come_back():
    bucket = Bucket(rate=10, burst=20, level=3, at=0)
    with pytest.raises(TooMany) as refused:
        bucket.take(15, now=0)

    # Twelve are missing, at ten a second.
    assert refused.value.retry_after.total_seconds() == 2
    assert refused.value.code == "too_fast"
    bucket.take(3, now=0)  # what was there is still there


def test_what_is_larger_than_the_burst_is_let_through_once_and_paid_off():
    bucket = Bucket(rate=10, burst=20, level=20, at=0)
    bucket.take(100, now=0)

    with pytest.raises(TooMany) as refused:
        bucket.take(1, now=0)
    # 81 requests at ten a second.
    assert refused.value.retry_after.total_seconds() == 9


@pytest.mark.parametrize("photos", [2, 19, 20, 21, 100])
def test_a_batch_of_any_size_is_taken_from_a_full_bucket(photos):
    """The request counts before its photos are there to be counted."""
    bucket = Bucket(rate=10, burst=20, level=20, at=0)
    bucket.take(1, now=0)
    bucket.take(photos - 1, now=0)
    assert bucket.level == 20 - photos


def test_what_a_batch_owes_is_paid_off_in_redis_too(services, clock):
    rates = Rates(get_settings(), clock)

    async def spend_and_meet():
        async with redis.asyncio.Redis.from_url(get_settings().redis_url) as client:
            rates.take(CALLER)
            rates.take(CALLER, 99)
            await rates.meet(client)

    asyncio.run(spend_and_meet())

    assert rates.of(CALLER).level == pytest.approx(-80, abs=2)


def test_keys_do_not_share_a_bucket(services, clock):
    rates = Rates(get_settings(), clock)
    spend_all(rates)

    rates.take(Caller("key_2", "org_1", frozenset({Scope.SUBMIT}), requests_per_second=10))


def test_processes_share_one_bucket_through_redis(services, clock):
    one, other = Rates(get_settings(), clock), Rates(get_settings(), clock)

    async def meet_both():
        async with redis.asyncio.Redis.from_url(get_settings().redis_url) as client:
            for _ in range(15):
                one.take(CALLER)
            await one.meet(client)
            other.take(CALLER)
            await other.meet(client)

    asyncio.run(meet_both())

    # 16 of 20 are spent; a little came back while Redis was asked.
    assert 4 <= spend_all(other) <= 6


def test_what_is_spent_during_a_meeting_is_not_forgotten(services, clock):
    rates = Rates(get_settings(), clock)

    async def meet_twice():
        async with redis.asyncio.Redis.from_url(get_settings().redis_url) as client:
            for _ in range(10):
                rates.take(CALLER)
            meeting = asyncio.create_task(rates.meet(client))
            await asyncio.sleep(0)
            for _ in range(8):
                rates.take(CALLER)
            await meeting
            await rates.meet(client)

    asyncio.run(meet_twice())

    assert 2 <= spend_all(rates) <= 4


def test_without_redis_every_process_goes_on_with_its_own_bucket(clock):
    away = get_settings().model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    rates = Rates(away, clock)

    async def run():
        await rates.start()
        rates.take(CALLER)
        await asyncio.sleep(0.3)
        await rates.stop()

    asyncio.run(run())

    assert spend_all(rates) == 19


def test_the_answer_tells_the_limit_and_what_is_left(api):
    key = api.post(
        "/v1/keys", json={"name": "slow", "scopes": ["read"], "requests_per_second": 1}
    ).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}

    answers = [api.get("/v1/products", headers=headers) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"key";q=2;w=2'
    assert answers[0].headers["RateLimit"].startswith('"key";r=1;')
    refused = answers[2]
    assert refused.json()["code"] == "too_fast"
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["RateLimit"].startswith('"key";r=0;')


def test_a_batch_counts_as_many_requests_as_it_has_photos(api, photo):
    key = api.post(
        "/v1/keys", json={"name": "slow", "scopes": ["submit"], "requests_per_second": 2}
    ).json()["key"]
    headers = {"Authorization": f"Bearer {key}"}
    files = [("file", photo(seed=n)) for n in range(4)]

    assert api.post("/v1/batches", files=files, headers=headers).status_code == 202
    refused = api.post("/v1/batches", files=files, headers=headers)
    assert refused.status_code == 429
    assert len(api.get("/v1/inspections").json()["inspections"]) == 4


def test_a_key_has_a_quota_of_waiting_photos(api, png, wait_until):
    made = api.post("/v1/keys", json={"name": "small", "scopes": ["submit"], "max_queued": 1})
    headers = {"Authorization": f"Bearer {made.json()['key']}"}
    door = api.app.state.gateway.door
    assert api.post("/v1/inspections", files={"file": png}, headers=headers).status_code == 202
    wait_until(lambda: door._queued[made.json()["id"]] == 1, "the look")

    refused = api.post("/v1/inspections", files={"file": png}, headers=headers)

    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    assert int(refused.headers["Retry-After"]) > 0
    assert api.post("/v1/inspections", files={"file": png}).status_code == 202  # another key
