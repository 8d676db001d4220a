import pytest
import redis

from shared import queue
from shared.queue import QUEUE, Ringer, redis_client


@pytest.fixture
def ringer(services):
    ringer = Ringer()
    ringer.start()
    yield ringer
    ringer.stop()


def test_a_burst_of_photos_rings_a_bounded_number_of_bells(ringer, wait_until):
    for _ in range(200):
        ringer.ring()
    wait_until(lambda: redis_client().llen(QUEUE) > 0, "a bell")
    for _ in range(200):
        ringer.ring()
        assert redis_client().llen(QUEUE) <= 8


def test_a_stopped_redis_never_blocks_or_fails_the_caller(monkeypatch, ringer, wait_until):
    calls = []

    def away():
        calls.append(1)
        raise redis.ConnectionError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(queue, "redis_client", away)
        ringer.ring()
        wait_until(lambda: len(calls) == 1, "the first try")
        for _ in range(1000):
            ringer.ring()

    # The wish outlives the outage.
    wait_until(lambda: redis_client().llen(QUEUE) == 1, "a bell after the outage")
    assert len(calls) <= 3


def test_telling_who_waits_never_fails(monkeypatch, services):
    def away():
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(queue, "redis_client", away)

    queue.tell_finished(["insp_1"])
