"""Objects without a row and rows without objects, in both stores, through real submissions."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import update

from shared import accepting, orphans, retention
from shared.db import transaction
from shared.ids import new_id
from shared.storage.folder import LocalStorage
from shared.storage.keys import image_key, map_key
from shared.storage.s3 import S3Storage
from shared.tables import Inspection, Organisation, Status, Upload

TODAY = datetime.now(UTC)


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    from shared.settings import Settings

    if request.param == "local":
        made = LocalStorage(tmp_path / "objects")
    else:
        settings = Settings(
            s3_endpoint_url=request.getfixturevalue("s3_url"),
            s3_access_key_id="test",
            s3_secret_access_key="test-secret",
        )
        made = S3Storage(settings, f"orphans-{uuid4().hex}")
    made.prepare()
    return made


@pytest.fixture
def submitted(organisation, store):
    """A photo with its row and its object, finished an hour ago; its id and key."""

    def submitted(*, is_stored=True):
        id_ = accepting.new_inspection_id()
        key = image_key(organisation, id_, "image/png", TODAY)
        if is_stored:
            store.put(key, b"photo", "image/png")
        image = accepting.StoredImage(key, "00" * 32, 5, "image/png", 900, 900)
        with transaction() as session:
            accepting.accept(
                session,
                organisation_id=organisation,
                product="bottle",
                photo=accepting.Submitted(id_, image, accepting.Part(), 5),
                actor="test",
            )
            session.execute(
                update(Inspection)
                .where(Inspection.id == id_)
                .values(status=Status.CANCELED, finished_at=TODAY - timedelta(hours=1))
            )
        return id_, key

    return submitted


@pytest.fixture
def find(store, organisation, monkeypatch):
    # Objects cannot be made old in S3.
    monkeypatch.setattr(orphans, "GRACE", timedelta(seconds=-5))

    def find():
        objects = orphans.list_objects(store, organisation, TODAY.date())
        with transaction() as session:
            return orphans.find(session, objects, organisation, TODAY.date())

    return find


def test_where_every_object_has_its_row_there_are_none(find, submitted):
    submitted()

    assert find() == orphans.Orphans((), ())


def test_an_object_without_a_row_is_found(find, submitted, store, organisation):
    _, key = submitted()
    lost = image_key(organisation, accepting.new_inspection_id(), "image/jpeg", TODAY)
    stale = map_key(key, "0123456789", "overlay")
    store.put(lost, b"photo", "image/jpeg")
    store.put(stale, b"map of a worker that lost its lease", "image/jpeg")

    assert set(find().objects) == {lost, stale}
    assert find().inspections == ()


def test_a_young_object_may_still_get_its_row(find, store, organisation, monkeypatch):
    monkeypatch.setattr(orphans, "GRACE", timedelta(hours=24))
    lost = image_key(organisation, accepting.new_inspection_id(), "image/jpeg", TODAY)
    store.put(lost, b"photo", "image/jpeg")

    assert find().objects == ()


def test_the_clock_of_a_row_makes_no_orphan_of_its_photo(find, submitted):
    id_, _ = submitted()
    with transaction() as session:
        session.execute(
            update(Inspection)
            .where(Inspection.id == id_)
            .values(created_at=TODAY + timedelta(days=40))
        )

    assert find().objects == ()


def test_a_photo_that_came_by_upload_has_the_row_of_its_inspection(find, store, organisation):
    waiting, submitted_ = (new_id("up") for _ in range(2))
    inspection = accepting.new_inspection_id()
    keys = {id_: image_key(organisation, id_, "image/png", TODAY) for id_ in (waiting, submitted_)}
    for key in keys.values():
        store.put(key, b"photo", "image/png")
    image = accepting.StoredImage(keys[submitted_], "00" * 32, 5, "image/png", 900, 900)
    with transaction() as session:
        accepting.accept(
            session,
            organisation_id=organisation,
            product="bottle",
            photo=accepting.Submitted(inspection, image, accepting.Part(), 5),
            actor="test",
        )
        for id_, of in ((waiting, None), (submitted_, inspection)):
            session.add(
                Upload(
                    id=id_,
                    organisation_id=organisation,
                    key=keys[id_],
                    media_type="image/png",
                    bytes=5,
                    sha256="00" * 32,
                    expires_at=TODAY + timedelta(hours=2),
                    inspection_id=of,
                )
            )

    assert find().objects == ()


def test_a_row_without_its_object_is_found_until_that_is_noted(find, submitted):
    submitted()
    missing, _ = submitted(is_stored=False)
    assert find().inspections == (missing,)

    with transaction() as session:
        retention.note_deleted(session, [missing], actor="orphans", event="pictures_missing")
    assert find().inspections == ()


def test_a_photo_that_was_missing_for_a_time_only_is_no_orphan_when_it_is_back(
    find, submitted, store
):
    """A disk that was not mounted, objects restored in two steps: mending twice deletes nothing."""
    id_, key = submitted(is_stored=False)
    with transaction() as session:
        retention.note_deleted(
            session, find().inspections, actor="orphans", event="pictures_missing"
        )
    store.put(key, b"photo", "image/png")

    assert find() == orphans.Orphans((), (), ())
    assert id_ in key


def test_a_photo_that_a_backup_has_brought_back_after_its_time_is_an_orphan(find, submitted):
    id_, key = submitted()
    with transaction() as session:
        retention.note_deleted(session, [id_], actor="worker:a")

    assert find().objects == (key,)


def test_a_photo_whose_map_is_missing_is_told_and_stays(find, submitted, store):
    """Noted as without pictures, it would be an object without a row the next time."""
    id_, key = submitted()
    with transaction() as session:
        session.execute(
            update(Inspection)
            .where(Inspection.id == id_)
            .values(overlay_key=map_key(key, "0123456789", "overlay"))
        )

    for _ in range(2):
        found = find()
        assert found == orphans.Orphans((), (), (id_,))
        with transaction() as session:
            retention.note_deleted(
                session, found.inspections, actor="orphans", event="pictures_missing"
            )
    assert store.exists(key)


def test_every_day_since_the_organisation_began_is_looked_at(organisation):
    with transaction() as session:
        session.execute(
            update(Organisation).values(created_at=datetime.now(UTC) - timedelta(days=3))
        )
    with transaction() as session:
        days = list(orphans.days(session))

    today = datetime.now(UTC).date()
    assert days == [(organisation, today - timedelta(days=n)) for n in (3, 2, 1, 0)]
