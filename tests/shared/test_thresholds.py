"""Thresholds are changed by a version of their own, and taken back like any other."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from shared import accepting, claiming, inspections, products, thresholds
from shared.db import transaction
from shared.errors import Conflict, InvalidInput, NotFound, PreconditionFailed
from shared.inspection_document import InspectionOut
from shared.inspections import Recorded
from shared.manifest import Manifest, Thresholds
from shared.tables import AuditEntry, Inspection, ModelVersion
from shared.verdicts import Scores, decide

OTHER = Thresholds(
    defect_probability=0.5,
    near_threshold_low=0.45,
    near_threshold_high=0.55,
    anomaly_score=6.0,
    domain_distance=40.0,
)


def active(session):
    product = products.get_product(session, organisation_id="org_plant", name="bottle")
    return thresholds.active_of(session, product)


def digest():
    with transaction() as session:
        return active(session).digest


def change(asked=OTHER, *, if_match=None, name="bottle", organisation_id="org_plant"):
    """The number of the version that is active afterwards."""
    with transaction() as session:
        product = thresholds.change(
            session,
            organisation_id=organisation_id,
            name=name,
            thresholds=asked,
            if_match=digest() if if_match is None else if_match,
            actor="key_anna",
        )
        return product.active_version.version


def versions(db):
    db.expire_all()
    return db.scalars(select(ModelVersion.version).order_by(ModelVersion.version)).all()


@pytest.fixture
def judge(organisation):
    def judge(probability):
        id_ = accepting.new_inspection_id()
        image = accepting.StoredImage(f"images/{id_}.png", "00" * 32, 1, "image/png", 900, 900)
        with transaction() as session:
            accepting.accept(
                session,
                organisation_id=organisation,
                product="bottle",
                photo=accepting.Submitted(id_, image, accepting.Part(), 5),
                actor="test",
            )
        with transaction() as session:
            lease = timedelta(seconds=30)
            batch = claiming.claim(session, limit=1, lease=lease, worker="worker:a")
            scores = Scores(probability, 0.001, 1.0, 10.0, ())
            version = session.get_one(ModelVersion, batch.inspections[0].model_version_id)
            outcome = decide(scores, Thresholds.model_validate(version.thresholds))
            timings = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1)
            result = Recorded(id_, scores, outcome, "cpu", "o", "a", [], timings)
            inspections.record(session, token=batch.token, results=[result], worker="worker:a")
        return id_

    return judge


def test_other_thresholds_are_a_version_of_the_same_files(db, organisation):
    before = active(db)
    assert change() == 2

    after = active(db)
    assert Thresholds.model_validate(after.thresholds) == OTHER
    manifest = Manifest.model_validate(after.manifest)
    assert manifest.thresholds == OTHER
    assert (manifest.policy, manifest.recalibrated_from) == ("set by a person", before.digest)
    kept = ("model", "backbone", "reference", "quantised", "temperature", "quality")
    assert {name: after.manifest[name] for name in kept} == {
        name: before.manifest[name] for name in kept
    }
    # What is anomalous from now on is not drawn blue.
    scale = manifest.limits
    assert (scale.anomaly_low, scale.anomaly_high) == (
        OTHER.anomaly_score / 2,
        OTHER.anomaly_score * 2,
    )
    assert scale.gradcam_high == before.manifest["limits"]["gradcam_high"]
    assert after.digest == manifest.digest != before.digest
    assert (after.published_by, after.version) == ("key_anna", 2)


def test_what_was_judged_keeps_the_thresholds_that_it_was_judged_by(db, organisation, judge):
    old = judge(0.42)
    change()
    new = judge(0.42)

    shown = [InspectionOut.of(db.get_one(Inspection, id_), "http://x") for id_ in (old, new)]
    assert [document.classifier.threshold for document in shown] == [0.336, 0.5]
    assert [document.model.version for document in shown] == [1, 2]
    assert [document.model_verdict for document in shown] == ["defective", "good"]


def test_a_rollback_takes_the_change_back(db, organisation):
    before = active(db).thresholds
    change()
    with transaction() as session:
        products.roll_back(session, organisation_id="org_plant", name="bottle", actor="key_anna")

    db.expire_all()
    assert active(db).thresholds == before
    assert active(db).version == 1


def test_figures_that_hang_on_the_thresholds_are_dropped(db, organisation, make_manifest):
    metrics = {
        **{"classifier_auroc": 0.99, "autoencoder_mse_auroc": 0.7, "classifier_ece": 0.02},
        **{"classifier_average_precision": 0.98, "anomaly_map_aupro": 0.9},
        **{"anomaly_map_pixel_auroc": 0.95, "synthetic_auroc": 0.91},
        **{"classifier_f1": 0.9, "classifier_recall": 0.97, "escapes": 0.01},
        **{"classifier_false_alarm_rate": 0.05, "review_load_on_good": 0.1, "undecidable": 0.0},
    }
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id="org_plant",
            manifest=make_manifest(metrics=metrics),
            is_stored=lambda _: True,
            actor="test",
        )
        products.activate(
            session,
            organisation_id="org_plant",
            name="bottle",
            version=version.version,
            actor="test",
        )
    change()

    assert set(active(db).manifest["metrics"]) == {
        *("classifier_auroc", "autoencoder_mse_auroc", "classifier_ece"),
        *("classifier_average_precision", "anomaly_map_aupro"),
        *("anomaly_map_pixel_auroc", "synthetic_auroc"),
    }


def test_the_same_thresholds_again_change_nothing(db, organisation):
    change()
    entries = len(db.scalars(select(AuditEntry)).all())

    assert change() == 2
    assert versions(db) == [1, 2]
    db.expire_all()
    assert len(db.scalars(select(AuditEntry)).all()) == entries


def test_there_and_back_are_two_changes(db, organisation):
    first = Thresholds.model_validate(active(db).thresholds)
    change()

    assert change(first) == 3
    db.expire_all()
    assert Thresholds.model_validate(active(db).thresholds) == first


def test_a_change_from_what_is_no_longer_active_is_refused(db, organisation):
    seen = digest()
    change()
    third = OTHER.model_copy(update={"anomaly_score": 7.0})

    with pytest.raises(PreconditionFailed, match="bottle@2 is active"):
        change(third, if_match=seen)
    assert versions(db) == [1, 2]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"near_threshold_low": 0.51}, "near_threshold_low"),
        ({"near_threshold_high": 0.49}, "near_threshold_high"),
        ({"defect_probability": 0.6}, "near_threshold_high"),
    ],
)
def test_the_band_has_to_lie_around_the_threshold(db, organisation, wrong, field):
    with pytest.raises(InvalidInput) as refusal:
        change(OTHER.model_copy(update=wrong))

    assert refusal.value.field == field
    assert versions(db) == [1]


def test_a_band_may_be_empty(organisation):
    assert change(OTHER.model_copy(update={"near_threshold_low": 0.5, "near_threshold_high": 0.5}))


def test_without_an_active_version_there_are_no_thresholds(organisation, make_manifest):
    with transaction() as session:
        products.publish(
            session,
            organisation_id="org_plant",
            manifest=make_manifest("screw"),
            is_stored=lambda _: True,
            actor="test",
        )

    with pytest.raises(Conflict) as refusal:
        change(name="screw")
    assert refusal.value.code == "no_active_version"


def test_a_product_of_another_organisation_is_not_there(db, organisation):
    with pytest.raises(NotFound):
        change(organisation_id="org_other")
    assert versions(db) == [1]


def test_a_change_is_audited_with_what_was_and_what_is(db, organisation):
    before = active(db).thresholds
    change()

    entries = db.scalars(select(AuditEntry).order_by(AuditEntry.id.desc()).limit(3)).all()
    assert [entry.action for entry in entries] == [
        *("version.activated", "thresholds.changed", "version.published"),
    ]
    assert {(entry.actor, entry.subject) for entry in entries} == {("key_anna", "bottle@2")}
    assert entries[1].detail == {"before": before, "after": OTHER.model_dump()}
