"""Real models on a random backbone, several products and a shadow, through the real loop."""

import io
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from shared import accepting, inspections, products, shadows
from shared.db import transaction
from shared.errors import NotFound
from shared.queue import Ringer
from shared.settings import get_settings
from shared.storage import storage
from shared.storage.keys import artifact_key
from shared.tables import Inspection, ModelVersion, Organisation, ShadowResult, Status
from worker.inspect.backbone import build_backbone, save_backbone
from worker.inspect.engines.openvino_engine import OpenVinoEngine
from worker.inspect.pipeline import Inspector
from worker.judging import Judging
from worker.leases import Leases
from worker.models import Models
from worker.shadowing import judge_in_shadow

ORGANISATION = "org_plant"


@dataclass
class Passes:
    """Photos of each backbone pass, in order."""

    sizes: list[int] = field(default_factory=list)


@pytest.fixture
def passes(monkeypatch):
    passes, features = Passes(), OpenVinoEngine.features

    def count(engine, photos):
        passes.sizes.append(len(photos))
        return features(engine, photos)

    monkeypatch.setattr(OpenVinoEngine, "features", count)
    return passes


@pytest.fixture
def publish(services, tmp_path, write_test_bundle):
    """Writes, stores and publishes a bundle of random numbers; returns its version."""
    with transaction() as session:
        session.add(Organisation(id=ORGANISATION, name="plant"))

    def publish(product="bottle", *, seed, writer=write_test_bundle):
        folder = tmp_path / f"{product}-{seed}"
        manifest = writer(folder, seed=seed, product=product)
        for artifact in (manifest.backbone, *manifest.own_files):
            with (folder / artifact.file).open("rb") as file:
                storage().put(artifact_key(artifact.sha256), file, "application/octet-stream")
        with transaction() as session:
            return products.publish(
                session,
                organisation_id=ORGANISATION,
                manifest=manifest,
                is_stored=lambda _: True,
                actor="test",
            )

    return publish


def activate(version, product="bottle"):
    with transaction() as session:
        products.activate(
            session,
            organisation_id=ORGANISATION,
            name=product,
            version=version.version,
            actor="test",
        )


def start_shadow(version, product="bottle"):
    with transaction() as session:
        shadows.start(
            session,
            organisation_id=ORGANISATION,
            name=product,
            version=version.version,
            actor="test",
        )


@pytest.fixture
def models(services, tmp_path):
    return Models(
        get_settings().model_copy(
            update={"model_cache": tmp_path / "cache", "engine": "openvino-fp32"}
        )
    )


@pytest.fixture
def judging(models, decoder):
    settings = get_settings()
    leases = Leases(settings, "worker:test")
    return Judging(settings, models, leases, decoder, Ringer(), "worker:test")


@pytest.fixture
def submit():
    """Accepts a picture of blobs, the same one for the same seed."""

    def accept(seed=0, product="bottle"):
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(np.kron(coarse, np.ones((32, 32, 1), np.uint8))).save(file, "PNG")
        id_ = accepting.new_inspection_id()
        key = f"images/{ORGANISATION}/{id_}.png"
        storage().put(key, file.getvalue(), "image/png")
        digest = sha256(file.getvalue()).hexdigest()
        with transaction() as session:
            image = accepting.StoredImage(key, digest, 1, "image/png", 256, 256)
            accepting.accept(
                session,
                organisation_id=ORGANISATION,
                product=product,
                photo=accepting.Submitted(id_, image, accepting.Part(), 5),
                actor="test",
            )
        return id_

    return accept


def row(db, id_):
    db.expire_all()
    return db.scalars(select(Inspection).where(Inspection.id == id_)).one()


def results(db):
    db.expire_all()
    return {one.inspection_id: one for one in db.scalars(select(ShadowResult))}


def scores(one):
    return (one.defect_probability, one.mse, one.anomaly_score, one.domain_distance)


def verdict_of(one):
    return (one.verdict, one.disposition, one.review_reasons, *scores(one))


def test_several_products_and_their_shadows_take_one_pass_over_each_photo(
    db, publish, models, judging, submit, passes
):
    for product in ("bottle", "grid"):
        activate(publish(product, seed=1), product)
    shadow = publish("bottle", seed=2)
    start_shadow(shadow)
    models.refresh()
    models.refresh_shadows()
    bottles = [submit(seed) for seed in range(2)]
    grids = [submit(seed, "grid") for seed in range(2)]
    passes.sizes.clear()

    judging.drain()

    assert passes.sizes == [4]
    assert {row(db, id_).status for id_ in bottles + grids} == {Status.SUCCEEDED}
    assert set(results(db)) == set(bottles)
    assert {one.model_version_id for one in results(db).values()} == {shadow.id}


def test_a_shadow_says_what_it_will_say_when_it_is_active(db, publish, models, judging, submit):
    first, second = publish(seed=1), publish(seed=2)
    activate(first)
    start_shadow(second)
    models.refresh_shadows()
    before = submit()
    judging.drain()
    activate(second)
    after = submit()
    judging.drain()

    said = results(db)[before]
    assert said.error_code is None
    assert (said.verdict, said.disposition) == (row(db, after).verdict, row(db, after).disposition)
    assert scores(said) == pytest.approx(scores(row(db, after)), abs=1e-6)
    assert scores(said) != pytest.approx(scores(row(db, before)), abs=1e-6)
    assert said.active_version_id == first.id
    assert (said.active_verdict, said.active_disposition) == (
        row(db, before).verdict,
        row(db, before).disposition,
    )
    # Activating the shadow ended it.
    assert after not in results(db)


def test_an_old_version_replays_to_the_same_scores(db, publish, judging, submit):
    first = publish(seed=1)
    activate(first)
    before = submit()
    judging.drain()
    activate(publish(seed=2))
    between = submit()
    judging.drain()
    again = publish(seed=1)
    activate(again)
    after = submit()
    judging.drain()

    assert again.id == first.id
    assert row(db, before).model_version.digest == row(db, after).model_version.digest
    assert verdict_of(row(db, before)) == verdict_of(row(db, after))
    assert verdict_of(row(db, before)) != verdict_of(row(db, between))


def test_a_shadow_on_another_backbone_takes_a_pass_of_its_own(
    db, publish, models, judging, submit, passes, tmp_path, write_test_bundle
):
    activate(publish(seed=1))
    other = tmp_path / "backbone-other.safetensors"
    save_backbone(build_backbone().state_dict(), other, provenance="random, for tests")
    shadow = publish(seed=2, writer=replace(write_test_bundle, backbone=other))
    start_shadow(shadow)
    models.refresh()
    models.refresh_shadows()
    assert models.get(shadow.id).inspector.engine not in [
        loaded.inspector.engine for id_, loaded in models._loaded.items() if id_ != shadow.id
    ]
    passes.sizes.clear()
    ids = [submit(seed) for seed in range(3)]

    judging.drain()

    assert passes.sizes == [3, 3]
    assert {one.error_code for one in results(db).values()} == {None}
    assert set(results(db)) == set(ids)


def test_the_verdict_is_the_same_with_and_without_a_shadow(db, publish, models, judging, submit):
    activate(publish(seed=1))
    alone = submit()
    judging.drain()
    start_shadow(publish(seed=2))
    models.refresh_shadows()
    beside = submit()
    judging.drain()

    assert set(results(db)) == {beside}
    assert verdict_of(row(db, alone)) == verdict_of(row(db, beside))


def crash(*_, **__):
    raise RuntimeError("crashed")


def give_nan(judge):
    def broken(*args):
        return [
            replace(one, scores=replace(one.scores, anomaly_score=float("nan")))
            for one in judge(*args)
        ]

    return broken


@pytest.mark.parametrize(
    ("fault", "code"), [("crash", "inspection_error"), ("nan", "not_a_number")]
)
def test_a_shadow_that_fails_does_not_touch_the_verdict(
    db, publish, models, judging, submit, passes, fault, code
):
    activate(publish(seed=1))
    alone = submit()
    judging.drain()
    shadow = publish(seed=2)
    start_shadow(shadow)
    models.refresh_shadows()
    loaded = models.get(shadow.id)
    judge = crash if fault == "crash" else give_nan(loaded.inspector.judge)
    models._loaded[shadow.id] = replace(
        loaded, inspector=SimpleNamespace(engine=loaded.inspector.engine, judge=judge)
    )
    beside = submit()
    passes.sizes.clear()

    judging.drain()

    assert row(db, beside).status is Status.SUCCEEDED
    assert row(db, beside).attempts == 1
    assert verdict_of(row(db, beside)) == verdict_of(row(db, alone))
    assert passes.sizes == [1]
    said = results(db)[beside]
    assert said.error_code == code
    assert (said.verdict, said.disposition, said.agrees) == (None, None, None)
    assert scores(said) == (None, None, None, None)


def test_a_damaged_shadow_is_tried_once_and_counted_as_failing(
    db, publish, models, judging, submit, monkeypatch
):
    activate(publish(seed=1))
    shadow = publish(seed=2)
    with transaction() as session:
        manifest = session.get_one(ModelVersion, shadow.id).manifest
    storage().delete(artifact_key(manifest["model"]["sha256"]))
    start_shadow(shadow)
    load, tries = Models._load, []

    def count(self, version):
        tries.append(version.id)
        return load(self, version)

    monkeypatch.setattr(Models, "_load", count)
    models.refresh()
    for _ in range(3):
        models.refresh_shadows()
    id_ = submit()

    judging.drain()

    assert tries.count(shadow.id) == 1
    assert row(db, id_).status is Status.SUCCEEDED
    assert results(db)[id_].error_code == "model_unavailable"


def test_a_verdict_does_not_wait_for_its_shadow_to_be_loaded(db, publish, models, judging, submit):
    activate(publish(seed=1))
    shadow = publish(seed=2)
    start_shadow(shadow)
    models.refresh()
    early = submit()
    # Another thread is loading something, and takes its time.
    with models._loading:
        judging.drain()
    models.refresh_shadows()
    late = submit()
    judging.drain()

    assert row(db, early).status is Status.SUCCEEDED
    assert results(db)[early].error_code == "shadow_not_loaded"
    assert results(db)[late].error_code is None


def test_a_photo_that_is_no_longer_ours_leaves_no_shadow_result(
    db, publish, models, judging, submit, monkeypatch
):
    activate(publish(seed=1))
    start_shadow(publish(seed=2))
    models.refresh_shadows()
    ours, lost = submit(0), submit(1)
    judge = Inspector.judge

    def cancel_one_meanwhile(*args):
        with transaction() as session:
            inspections.cancel(
                session, organisation_id=ORGANISATION, inspection_id=lost, actor="key_x"
            )
        return judge(*args)

    monkeypatch.setattr(Inspector, "judge", cancel_one_meanwhile)
    judging.drain()

    assert row(db, lost).status is Status.CANCELED
    assert set(results(db)) == {ours}


def test_a_shadow_that_was_stopped_judges_no_photo_that_still_waits(
    db, publish, models, judging, submit
):
    activate(publish(seed=1))
    start_shadow(publish(seed=2))
    models.refresh_shadows()
    id_ = submit()
    with transaction() as session:
        shadows.stop(session, organisation_id=ORGANISATION, name="bottle", actor="test")

    judging.drain()

    assert row(db, id_).status is Status.SUCCEEDED
    assert results(db) == {}


def test_a_photo_whose_own_version_is_the_shadow_by_now_has_none(
    db, publish, models, judging, submit
):
    first = publish(seed=1)
    activate(first)
    id_ = submit()
    activate(publish(seed=2))
    start_shadow(first)
    models.refresh_shadows()

    judging.drain()

    assert row(db, id_).model_version_id == first.id
    assert results(db) == {}


def test_one_shadow_that_fails_leaves_the_other_alone(photos):
    """Two products, two shadows, one batch; the second is unknown."""

    class OneKnown:
        def get_shadow(self, version_id):
            if version_id != "known":
                raise NotFound("unknown")
            said = SimpleNamespace(scores=SimpleNamespace(are_finite=True), outcome=None)
            inspector = SimpleNamespace(
                engine="engine", judge=lambda photos, *_: [said] * len(photos)
            )
            return SimpleNamespace(product=None, inspector=inspector)

    said = judge_in_shadow(
        OneKnown(), photos[:4], ["known", None, "lost", "known"], np.zeros((4, 1)), "engine"
    )

    assert [one and (one.model_version_id, one.error_code) for one in said] == [
        ("known", None),
        None,
        ("lost", "not_found"),
        ("known", None),
    ]
