from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from shared import retention, uploads
from shared.db import engine, transaction
from shared.errors import StorageUnavailable
from shared.settings import get_settings
from shared.storage import storage
from shared.tables import IdempotencyKey, Inspection, InspectionEvent, Status, Upload
from worker import tidying
from worker.tidying import Tidying


@pytest.fixture
def round_(services):
    return Tidying(get_settings(), "worker:test").round


@pytest.fixture
def old_photo(organisation, queued):
    """Canceled long ago, its original in storage, kept for a day."""
    (id_,) = queued(5)
    storage().put(f"images/{id_}.png", b"photo", "image/png")
    with transaction() as session:
        session.execute(
            update(Inspection).values(
                status=Status.CANCELED, finished_at=datetime.now(UTC) - timedelta(days=3)
            )
        )
        retention.set_retention(
            session, organisation_id=organisation, name="bottle", days=1, actor="test"
        )
    return id_


def row(db, id_):
    db.expire_all()
    return db.scalars(select(Inspection).where(Inspection.id == id_)).one()


def test_pictures_that_were_kept_long_enough_go_and_the_row_stays(db, round_, old_photo):
    round_()

    assert not storage().exists(f"images/{old_photo}.png")
    assert row(db, old_photo).pictures_deleted_at is not None
    assert row(db, old_photo).serial == "SN1"


def test_what_a_crash_interrupts_is_done_again(db, round_, old_photo, monkeypatch):
    """The object is gone, the row does not say so yet."""
    with monkeypatch.context() as patch:

        def crash(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(tidying.retention, "note_deleted", crash)
        with pytest.raises(KeyboardInterrupt):
            round_()
    assert not storage().exists(f"images/{old_photo}.png")
    assert row(db, old_photo).pictures_deleted_at is None

    round_()
    assert row(db, old_photo).pictures_deleted_at is not None


def test_while_the_store_is_away_the_row_claims_nothing(db, round_, old_photo, monkeypatch):
    def away(_):
        raise StorageUnavailable("away")

    monkeypatch.setattr(storage(), "delete", away)
    with pytest.raises(StorageUnavailable):
        round_()

    assert row(db, old_photo).pictures_deleted_at is None


def test_one_worker_tidies_at_a_time(db, round_, old_photo):
    with engine().connect() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": tidying._LOCK})
        round_()

    assert row(db, old_photo).pictures_deleted_at is None


def test_uploads_that_nobody_submitted_go_with_their_object(db, organisation, round_):
    storage().put("images/up.png", b"photo", "image/png")
    with transaction() as session:
        uploads.announce(
            session,
            upload_id="up_1",
            organisation_id=organisation,
            key="images/up.png",
            media_type="image/png",
            size=5,
            sha256="00" * 32,
        )
        session.execute(update(Upload).values(expires_at=datetime.now(UTC) - timedelta(hours=2)))

    round_()

    assert not storage().exists("images/up.png")
    assert db.scalars(select(Upload)).all() == []


def test_idempotency_keys_go_when_they_no_longer_count(db, api_key, queued, round_):
    (id_,) = queued(5)
    with transaction() as session:
        for name, hours in (("old", 25), ("young", 23)):
            session.add(
                IdempotencyKey(
                    api_key_id=api_key,
                    key=name,
                    payload_sha256="00" * 32,
                    inspection_id=id_,
                    created_at=datetime.now(UTC) - timedelta(hours=hours),
                )
            )

    round_()

    assert db.scalars(select(IdempotencyKey.key)).all() == ["young"]


@pytest.fixture
def api_key(organisation):
    from shared import keys

    with transaction() as session:
        created, _ = keys.create_key(
            session, organisation_id=organisation, name="test", scopes=frozenset(), actor="test"
        )
        return created.id


def test_the_history_tells_that_pictures_were_deleted(db, round_, old_photo):
    round_()

    (event,) = db.scalars(
        select(InspectionEvent).where(InspectionEvent.event == "pictures_deleted")
    ).all()
    assert (event.inspection_id, event.actor) == (old_photo, "worker:test")
