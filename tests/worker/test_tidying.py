from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, text, update

from shared import retention, uploads
from shared.db import engine, transaction
from shared.errors import StorageUnavailable
from shared.settings import get_settings
from shared.storage import storage
from shared.tables import IdempotencyKey, Inspection, InspectionEvent, Status, Upload
from shared.webhook_tables import WebhookAttempt, WebhookDelivery
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
    def away(*_):
        raise StorageUnavailable("away")

    monkeypatch.setattr(storage(), "delete", away)
    monkeypatch.setattr(storage(), "check", away)
    with pytest.raises(StorageUnavailable):
        round_()

    assert row(db, old_photo).pictures_deleted_at is None


def test_one_worker_tidies_at_a_time(db, round_, old_photo):
    with engine().connect() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": tidying._LOCK})
        round_()

    assert row(db, old_photo).pictures_deleted_at is None


@pytest.fixture
def abandoned(organisation):
    """Key of an upload that nobody submitted."""
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
    return "images/up.png"


def test_an_object_that_the_store_refuses_to_delete_holds_up_no_other(
    db, abandoned, round_, old_photo, monkeypatch
):
    delete = storage().delete

    def refuse_one(key):
        if key == abandoned:
            raise StorageUnavailable("The object storage refused the request (AccessDenied).")
        delete(key)

    monkeypatch.setattr(storage(), "delete", refuse_one)
    round_()

    assert row(db, old_photo).pictures_deleted_at is not None
    assert db.scalars(select(Upload.key)).all() == [abandoned]


def test_uploads_that_nobody_submitted_go_with_their_object(db, abandoned, round_):
    round_()

    assert not storage().exists(abandoned)
    assert db.scalars(select(Upload)).all() == []


def test_while_the_store_is_away_an_upload_keeps_its_row(db, abandoned, round_, monkeypatch):
    """Else nobody would ever look for its object again."""

    def away(*_):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(storage(), "delete", away)
        patch.setattr(storage(), "check", away)
        with pytest.raises(StorageUnavailable):
            round_()
    assert db.scalars(select(Upload.key)).all() == [abandoned]

    round_()
    assert not storage().exists(abandoned)


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


def test_one_round_ends_with_nothing_left_however_much_there_was(
    db, organisation, api_key, queued, round_
):
    """Otherwise a busy or hostile sender makes more in a minute than a round takes away."""
    queued(5)
    fill = (
        """INSERT INTO idempotency_keys (api_key_id, key, payload_sha256, inspection_id, created_at)
        SELECT :key, n, '', (SELECT id FROM inspections), now() - interval '2 days'
        FROM generate_series(1, 1001) AS n""",
        """INSERT INTO uploads (id, organisation_id, key, media_type, bytes, sha256, expires_at)
        SELECT n, 'org_plant', 'images/' || n, 'image/png', 1, '', now() - interval '2 days'
        FROM generate_series(1, 101) AS n""",
        """INSERT INTO webhook_endpoints (id, organisation_id, url, events, secret, status)
        VALUES ('whe_1', 'org_plant', '', '{}', '', 'active')""",
        """INSERT INTO webhook_deliveries (id, organisation_id, endpoint_id, event, status,
          finished_at)
        SELECT n, 'org_plant', 'whe_1', 'webhook.test', 'dead', now() - interval '31 days'
        FROM generate_series(1, 1001) AS n""",
        """INSERT INTO webhook_attempts (delivery_id, at, latency_ms, reply)
        SELECT id, finished_at, 1, '' FROM webhook_deliveries, generate_series(1, 3)""",
    )
    for statement in fill:
        db.execute(text(statement), {"key": api_key} if ":key" in statement else {})
    db.commit()

    round_()

    for table in (IdempotencyKey, Upload, WebhookDelivery, WebhookAttempt):
        assert db.scalar(select(func.count()).select_from(table)) == 0, table


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
