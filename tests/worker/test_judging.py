"""The loop around the models, with a stand-in for the models: faults are its subject."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import func, select, update

from shared import accepting, claiming, inspections
from shared.db import transaction
from shared.errors import DamagedBundle, DatabaseUnavailable, StorageUnavailable
from shared.manifest import Limits
from shared.queue import Ringer
from shared.settings import get_settings
from shared.storage import storage
from shared.tables import Inspection, InspectionEvent, Status
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from worker import judging as judging_of_worker
from worker.decoding import DecoderDied
from worker.inspect.pipeline import Judgement
from worker.judging import Judging
from worker.leases import Leases

POISON = 13
"""Grey value of a photo that crashes the stand-in."""


class StandIn:
    """An inspector: every photo is good, except that one grey value crashes the whole batch."""

    engine = SimpleNamespace(name="stand-in")

    def __init__(self):
        self.batches = []
        self.before = lambda: None

    def features(self, photos):
        return np.zeros((len(photos), 1024, 8, 8), np.float32)

    def judge(self, photos, models, maps=None):
        self.before()
        self.batches.append(len(photos))
        if any(photo.pixels.mean() == POISON for photo in photos):
            raise RuntimeError("crashed")
        outcome = Outcome(Verdict.GOOD, Disposition.PASS, (), False, False, True)
        return [
            Judgement(
                Scores(0.1, 0.002, 1.0, 20.0, ()),
                outcome,
                photo.pixels,
                np.zeros((8, 8), np.float32),
                np.zeros((256, 256), np.float32),
                Limits(gradcam_high=1.0, anomaly_low=1.0, anomaly_high=6.0),
                4.0,
            )
            for photo in photos
        ]


class StandInModels:
    batch_size = 8

    def __init__(self, inspector):
        self.inspector = inspector
        self.error = None

    def get(self, version_id):
        if self.error:
            raise self.error
        return SimpleNamespace(product=version_id, inspector=self.inspector)


@pytest.fixture
def inspector():
    return StandIn()


@pytest.fixture
def models(inspector):
    return StandInModels(inspector)


@pytest.fixture
def ended():
    """Times that the worker wanted its process to end."""
    return []


@pytest.fixture
def judging(services, models, decoder, ended):
    settings = get_settings()
    return Judging(
        settings,
        models,
        Leases(settings, "worker:test", end=lambda: ended.append("now")),
        decoder,
        Ringer(),
        "worker:test",
    )


@pytest.fixture
def submit(organisation):
    """Store a grey photo and accept it."""

    def accept(grey=100, data=None):
        file = io.BytesIO()
        Image.new("RGB", (200, 200), (grey, grey, grey)).save(file, "PNG")
        id_ = accepting.new_inspection_id()
        key = f"images/{organisation}/{id_}.png"
        data = data if data is not None else file.getvalue()
        storage().put(key, data, "image/png")
        digest = sha256(data).hexdigest()
        with transaction() as session:
            image = accepting.StoredImage(key, digest, len(data), "image/png", 200, 200)
            accepting.accept(
                session,
                organisation_id=organisation,
                product="bottle",
                photo=accepting.Submitted(id_, image, accepting.Part(), 5),
                actor="test",
            )
        return id_

    return accept


def row(db, id_):
    db.expire_all()
    return db.scalars(select(Inspection).where(Inspection.id == id_)).one()


def test_queued_photos_form_one_batch(db, judging, inspector, submit):
    ids = [submit() for _ in range(5)]

    judging.drain()

    assert inspector.batches == [5]
    for id_ in ids:
        inspection = row(db, id_)
        assert inspection.status is Status.SUCCEEDED
        assert inspection.engine == "stand-in"
        assert set(inspection.timings_ms) == {
            *("queued", "fetch", "decode", "infer", "record", "total")
        }
        picture = Image.open(io.BytesIO(storage().get(inspection.overlay_key)))
        assert (picture.format, picture.size) == ("JPEG", (256, 256))


def test_photos_whose_bell_nobody_heard_are_found_by_a_look(db, judging, submit):
    id_ = submit()

    judging.look()

    assert row(db, id_).status is Status.SUCCEEDED


def test_a_look_does_not_wait_for_a_slot_but_a_bell_does(db, judging, inspector, submit):
    with ThreadPoolExecutor() as pool, ExitStack() as slots:
        for _ in range(get_settings().slots):
            slots.enter_context(judging._slots)
        id_ = submit()
        judging.look()
        assert row(db, id_).status is Status.QUEUED

        bell = pool.submit(judging.drain)
        slots.close()
        bell.result(timeout=30)
        assert row(db, id_).status is Status.SUCCEEDED


def test_a_batch_takes_no_more_than_the_setting(judging, inspector, submit):
    for _ in range(StandInModels.batch_size + 3):
        submit()

    judging.drain()

    assert inspector.batches == [8, 3]


def test_an_unreadable_photo_fails_at_once_and_its_neighbours_do_not(db, judging, submit):
    good, broken = submit(), submit(data=b"\x89PNG\r\n\x1a\n then nothing")

    judging.drain()

    assert row(db, good).status is Status.SUCCEEDED
    assert row(db, broken).status is Status.FAILED
    assert row(db, broken).error_code == "unreadable_image"
    assert row(db, broken).disposition is Disposition.HOLD
    assert row(db, broken).attempts == 1


def test_an_original_that_was_changed_in_storage_is_not_judged(db, judging, submit):
    id_ = submit()
    other = submit(grey=200)
    storage().put(row(db, id_).image_key, storage().get(row(db, other).image_key), "image/png")

    judging.drain()

    assert (row(db, id_).status, row(db, id_).error_code) == (Status.FAILED, "image_changed")
    assert row(db, other).status is Status.SUCCEEDED


def test_a_lost_original_fails_and_says_so(db, judging, submit):
    id_ = submit()
    storage().delete(row(db, id_).image_key)

    judging.drain()

    assert row(db, id_).error_code == "image_missing"


def test_a_poisoned_photo_fails_alone_after_three_attempts(db, judging, inspector, submit):
    good = [submit() for _ in range(3)]
    poisoned = submit(grey=POISON)

    judging.drain()

    assert {row(db, id_).status for id_ in good} == {Status.SUCCEEDED}
    assert row(db, poisoned).status is Status.FAILED
    assert row(db, poisoned).error_code == "inspection_error"
    assert row(db, poisoned).attempts == 3
    # All four crash together, then each is judged alone: three pass, one crashes twice more.
    assert sorted(inspector.batches) == [1, 1, 1, 1, 1, 4]


def gone(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize("what", ["engine", "decoders"])
def test_what_only_a_new_process_can_mend_costs_no_photo_an_attempt(
    db, judging, inspector, decoder, submit, monkeypatch, ended, what
):
    """Else a worker whose GPU is gone would fail all that is queued, faster than others judge."""
    ids = [submit() for _ in range(3)]
    if what == "engine":
        monkeypatch.setattr(inspector, "features", gone)
    else:
        monkeypatch.setattr(decoder, "_run", gone)
        monkeypatch.setattr(decoder, "_prepare", die)

    judging.drain()

    assert ended == ["now"]
    for id_ in ids:
        inspection = row(db, id_)
        assert (inspection.status, inspection.attempts) == (Status.QUEUED, 0)
        assert not inspection.is_alone


def die(_):
    raise DecoderDied("The decoder crashed on this file.")


def test_a_photo_that_kills_its_decoder_pays_for_it_itself(
    db, judging, decoder, submit, monkeypatch, ended
):
    id_ = submit()
    monkeypatch.setattr(decoder, "_prepare", die)

    judging.drain()

    assert ended == []
    assert (row(db, id_).status, row(db, id_).attempts) == (Status.FAILED, 3)


def test_an_unusable_model_fails_the_photo_and_names_the_file(db, judging, models, submit):
    models.error = DamagedBundle("model.safetensors is damaged")
    id_ = submit()

    judging.drain()

    assert row(db, id_).error_code == "damaged_bundle"
    assert "model.safetensors" in row(db, id_).error_message


def test_with_storage_away_photos_wait_and_spend_no_attempt(db, judging, submit, monkeypatch):
    id_ = submit()

    def away(*_):
        raise StorageUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(storage()), "get", away)
        judging.drain()
    inspection = row(db, id_)
    assert inspection.status is Status.QUEUED
    assert inspection.attempts == 0
    assert inspection.is_alone is False
    assert inspection.run_at > datetime.now(UTC)

    with transaction() as session:
        session.execute(update(Inspection).values(run_at=datetime.now(UTC)))
    judging.drain()
    assert row(db, id_).status is Status.SUCCEEDED


def test_maps_that_cannot_be_stored_mean_no_verdict(db, judging, submit, monkeypatch):
    id_ = submit()

    def full(*_):
        raise StorageUnavailable("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(storage()), "put", full)
        judging.drain()

    assert row(db, id_).status is Status.QUEUED
    assert row(db, id_).verdict is None


def test_a_photo_canceled_while_it_is_judged_leaves_neither_verdict_nor_maps(
    db, judging, inspector, organisation, submit
):
    id_ = submit()

    def cancel():
        with transaction() as session:
            inspections.cancel(
                session, organisation_id=organisation, inspection_id=id_, actor="key_x"
            )

    inspector.before = cancel
    judging.drain()

    assert row(db, id_).status is Status.CANCELED
    assert row(db, id_).verdict is None
    maps = storage()._folder / "maps"
    assert not [path for path in maps.rglob("*.jpg") if id_ in path.name]


def test_a_database_that_goes_away_before_recording_costs_no_verdict(
    db, judging, submit, monkeypatch
):
    id_ = submit()
    record, calls = inspections.record, []

    def flaky(*args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseUnavailable("restarting")
        return record(*args, **kwargs)

    monkeypatch.setattr(inspections, "record", flaky)
    monkeypatch.setattr("worker.judging.time.sleep", lambda _: None)

    judging.drain()

    assert row(db, id_).status is Status.SUCCEEDED
    assert storage().exists(row(db, id_).overlay_key)


def test_a_commit_whose_answer_was_lost_keeps_the_maps(db, judging, submit, monkeypatch):
    id_ = submit()
    write, calls = judging._write, []

    def lost(*args):
        written = write(*args)
        calls.append(1)
        if len(calls) == 1:
            raise DatabaseUnavailable("the connection broke after the commit")
        return written

    monkeypatch.setattr(judging, "_write", lost)
    monkeypatch.setattr("worker.judging.time.sleep", lambda _: None)

    judging.drain()

    assert row(db, id_).status is Status.SUCCEEDED
    assert storage().exists(row(db, id_).overlay_key)


def test_stopping_finishes_the_batch_and_takes_no_other(db, judging, inspector, submit):
    ids = [submit() for _ in range(StandInModels.batch_size + 1)]
    inspector.before = judging.stop

    judging.drain()

    statuses = [row(db, id_).status for id_ in ids]
    assert statuses == [Status.SUCCEEDED] * StandInModels.batch_size + [Status.QUEUED]


def claim(*, limit=8):
    with transaction() as session:
        return claiming.claim(
            session, limit=limit, lease=timedelta(seconds=30), worker="worker:test"
        )


def test_a_hung_batch_ends_the_process_and_the_others_are_given_back(
    db, services, submit, ended, monkeypatch
):
    hung, sound = submit(), submit()
    leases = Leases(get_settings(), "worker:test", end=lambda: ended.append("now"))
    clock = time.monotonic()

    with leases.kept(claim(limit=1)):
        monkeypatch.setattr(time, "monotonic", lambda: clock + get_settings().max_batch_seconds + 1)
        with leases.kept(claim(limit=1)):
            leases.beat()
    leases.beat()

    assert ended == ["now"]
    assert (row(db, hung).status, row(db, hung).attempts) == (Status.RUNNING, 1)
    assert (row(db, sound).status, row(db, sound).attempts) == (Status.QUEUED, 0)
    assert not row(db, sound).is_alone


def test_a_process_that_cannot_give_back_ends_all_the_same(services, submit, ended, monkeypatch):
    submit()
    leases = Leases(get_settings(), "worker:test", end=lambda: ended.append("now"))

    with leases.kept(claim()):
        monkeypatch.setattr("worker.leases.transaction", gone)
        leases.give_up()

    assert ended == ["now"]


def test_a_broken_engine_costs_the_photos_of_other_slots_no_attempt(
    db, judging, inspector, submit, ended, monkeypatch
):
    elsewhere = submit()
    with judging._leases.kept(claim()):
        submit()
        monkeypatch.setattr(inspector, "features", gone)
        judging.drain()

    assert ended == ["now"]
    assert (row(db, elsewhere).status, row(db, elsewhere).attempts) == (Status.QUEUED, 0)


def test_an_original_that_the_store_refuses_comes_back_later_and_later(
    db, judging, submit, monkeypatch
):
    """Else, being the most urgent, it would come before all others again and again."""
    refused = submit()
    db.execute(update(Inspection).values(created_at=Inspection.created_at - timedelta(hours=1)))
    db.commit()

    def refuse(_):
        raise StorageUnavailable("The object storage refused the request (500).")

    monkeypatch.setattr(storage(), "get", refuse)
    judging.drain()

    assert (row(db, refused).status, row(db, refused).attempts) == (Status.QUEUED, 0)
    assert row(db, refused).run_at > datetime.now(UTC) + timedelta(seconds=15)


def drain_again(db, judging, *, times):
    for _ in range(times):
        judging.drain()
        db.execute(update(Inspection).values(run_at=func.now()))
        db.commit()


@pytest.mark.parametrize("gives_others", [True, False])
def test_an_original_that_a_sound_store_refuses_for_ever_is_held_for_a_person(
    db, judging, submit, monkeypatch, gives_others
):
    """While the store is away for all, nobody has to look: it will be back."""
    refused, other = submit(), submit()
    key = db.scalar(select(Inspection.image_key).where(Inspection.id == refused))
    get = storage().get

    def refuse(asked):
        if asked == key or not gives_others:
            raise StorageUnavailable("The object storage refused the request (500).")
        return get(asked)

    monkeypatch.setattr(storage(), "get", refuse)
    monkeypatch.setattr(judging_of_worker, "_REFUSALS", 2)
    drain_again(db, judging, times=3)

    if gives_others:
        assert row(db, other).status is Status.SUCCEEDED
        assert (row(db, refused).status, row(db, refused).error_code) == (
            Status.FAILED,
            "image_refused",
        )
        assert row(db, refused).disposition == "hold"
    else:
        assert {row(db, id_).status for id_ in (refused, other)} == {Status.QUEUED}


def test_a_full_disk_is_no_fault_of_the_photo_however_long_it_lasts(
    db, judging, submit, monkeypatch
):
    photo = submit()

    def refuse(*_):
        raise StorageUnavailable("No space left on device")

    monkeypatch.setattr(storage(), "put", refuse)
    monkeypatch.setattr(judging_of_worker, "_REFUSALS", 2)
    drain_again(db, judging, times=4)

    assert (row(db, photo).status, row(db, photo).attempts) == (Status.QUEUED, 0)


def test_a_map_that_cannot_be_drawn_fails_its_photo_and_no_other(db, judging, inspector, submit):
    dark, other = submit(grey=50), submit()
    judge = inspector.judge
    inspector.judge = lambda *args: [
        replace(judgement, strangeness=None) if judgement.photo.mean() == 50 else judgement
        for judgement in judge(*args)
    ]

    judging.drain()

    assert row(db, dark).error_code == "inspection_error"
    assert (row(db, other).status, row(db, other).attempts) == (Status.SUCCEEDED, 1)


def test_numbers_that_are_none_are_held_and_do_not_pass(db, judging, inspector, submit):
    judge = inspector.judge

    def broken(*args):
        return [
            replace(judgement, scores=replace(judgement.scores, defect_probability=float("nan")))
            for judgement in judge(*args)
        ]

    inspector.judge = broken
    id_ = submit()

    judging.drain()

    assert row(db, id_).error_code == "not_a_number"
    assert row(db, id_).disposition is Disposition.HOLD


def test_a_store_that_lost_its_volume_fails_no_photo(db, judging, submit):
    id_ = submit()
    mark = storage()._folder / ".defectscope"
    storage().delete(row(db, id_).image_key)
    mark.unlink()
    try:
        judging.drain()
    finally:
        mark.touch()

    assert row(db, id_).status is Status.QUEUED
    assert row(db, id_).attempts == 0


def test_history_says_why_a_photo_was_given_back(db, judging, submit):
    id_ = submit(grey=POISON)

    judging.drain()

    events = db.execute(
        select(InspectionEvent.event, InspectionEvent.detail)
        .where(InspectionEvent.inspection_id == id_)
        .order_by(InspectionEvent.id)
    ).all()
    assert [event.event for event in events] == [
        "accepted",
        *("claimed", "given_back") * 2,
        *("claimed", "failed"),
    ]
    assert "crashed" in events[2].detail["why"]
