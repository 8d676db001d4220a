from datetime import timedelta

from sqlalchemy import exists, func, select, update

from shared.tables import Worker
from shared.workers import is_alive, report_alive


def is_worker_alive(db, host):
    return db.scalars(select(exists().where(is_alive("worker", host)))).one()


def test_a_worker_that_has_just_reported_is_alive(db):
    report_alive(db, worker="worker:3f2a-7", engine="torch-cpu")

    assert is_worker_alive(db, "3f2a")


def test_a_worker_that_has_been_silent_for_longer_than_the_api_allows_is_not(db):
    report_alive(db, worker="worker:3f2a-7", engine="torch-cpu")
    db.execute(update(Worker).values(seen_at=func.now() - timedelta(seconds=31)))

    assert not is_worker_alive(db, "3f2a")


def test_the_workers_of_other_containers_do_not_count(db):
    report_alive(db, worker="worker:3f2a1-7", engine="torch-cpu")
    report_alive(db, worker="worker:xf2a-7", engine="torch-cpu")

    assert not is_worker_alive(db, "3f2a")
    assert not is_worker_alive(db, "_f2a")
