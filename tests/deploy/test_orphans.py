"""`defectscope orphans`: what it mends, what it leaves, and what its exit says."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from rich.console import Console
from sqlalchemy import update

from deploy.orphans import find_and_mend
from shared import accepting, orphans
from shared.db import transaction
from shared.storage import storage
from shared.storage.keys import image_key
from shared.tables import Inspection, Status

TODAY = datetime.now(UTC)


@pytest.fixture
def finished(organisation, queued):
    """A photo of today that is done with, and whose object is, or is not, there."""
    for key in orphans.list_objects(storage(), organisation, TODAY.date()):
        storage().delete(key)  # of the tests before

    def finished(*, is_stored):
        (id_,) = queued(5)
        key = image_key(organisation, id_, "image/png", TODAY)
        if is_stored:
            storage().put(key, b"photo", "image/png")
        with transaction() as session:
            session.execute(
                update(Inspection)
                .where(Inspection.id == id_)
                .values(
                    status=Status.CANCELED,
                    finished_at=TODAY - timedelta(hours=1),
                    image_key=key,
                )
            )
        return key

    return finished


@pytest.fixture
def run(monkeypatch):
    # Files can be made old, but need not be.
    monkeypatch.setattr(orphans, "GRACE", timedelta(seconds=-5))

    def run(*, mend):
        written = StringIO()
        left = find_and_mend(mend=mend, console=Console(file=written, width=200))
        return left, written.getvalue()

    return run


def test_missing_photos_are_noted_once(run, finished):
    kept = finished(is_stored=True)
    finished(is_stored=False)

    assert run(mend=False)[0] == 1
    left, told = run(mend=True)
    assert left == 0
    assert "1 inspections whose photo is missing; 1 of them mended" in told
    assert run(mend=False)[0] == 0
    assert storage().exists(kept)


def test_a_day_of_which_nothing_is_stored_is_left_alone_and_the_exit_says_so(run, finished):
    """Most likely another store, or one that is not mounted."""
    finished(is_stored=False)

    left, told = run(mend=True)

    assert left == 1
    assert "is this the right store? left alone" in told
    assert run(mend=False)[0] == 1


def test_objects_without_a_row_are_deleted(run, finished, organisation):
    finished(is_stored=True)
    lost = image_key(organisation, accepting.new_inspection_id(), "image/jpeg", TODAY)
    storage().put(lost, b"photo", "image/jpeg")

    assert run(mend=False)[0] == 1
    assert storage().exists(lost)
    assert run(mend=True)[0] == 0
    assert not storage().exists(lost)
