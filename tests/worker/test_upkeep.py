from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import select, text

from shared import claiming
from shared.db import engine, transaction
from shared.settings import get_settings
from shared.tables import Inspection, Status, Worker
from shared.workers import engines_alive, forget_dead
from worker.upkeep import _SWEEPER_LOCK, Upkeep


@pytest.fixture
def upkeep(services):
    return Upkeep(get_settings(), SimpleNamespace(engine_names=["stand-in"]), "worker:test")


def statuses(db):
    db.expire_all()
    return list(db.scalars(select(Inspection.status)))


def test_photos_of_a_dead_worker_come_back(db, upkeep, queued):
    queued(5, 5)
    with transaction() as session:
        claiming.claim(session, limit=2, lease=timedelta(seconds=-1), worker="worker:dead")

    upkeep.round()

    assert statuses(db) == [Status.QUEUED, Status.QUEUED]


def test_only_one_worker_sweeps_at_a_time(db, upkeep, queued):
    queued(5)
    with transaction() as session:
        claiming.claim(session, limit=1, lease=timedelta(seconds=-1), worker="worker:dead")
    with engine().begin() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SWEEPER_LOCK})
        upkeep.round()

    assert statuses(db) == [Status.RUNNING]
    upkeep.round()
    assert statuses(db) == [Status.QUEUED]


def test_every_round_says_that_the_worker_is_alive(db, upkeep):
    upkeep.round()
    upkeep.round()

    assert [worker.id for worker in db.scalars(select(Worker))] == ["worker:test"]
    assert engines_alive(db) == ["stand-in"]


def test_a_worker_that_stops_says_so_and_one_that_died_is_forgotten(db, upkeep):
    upkeep.start()
    upkeep.stop()
    assert engines_alive(db) == []

    upkeep.round()
    with transaction() as session:
        session.execute(text("UPDATE workers SET seen_at = now() - interval '1 minute'"))
    with transaction() as session:
        assert engines_alive(session) == []
        forget_dead(session)
    assert db.scalars(select(Worker)).all() == []
