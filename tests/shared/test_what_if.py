"""What other thresholds would do: every number here was worked out by hand or by statsmodels."""

from datetime import timedelta

import pytest
from scipy.stats import binomtest
from sqlalchemy import select, update
from statsmodels.stats.proportion import proportion_confint

from shared import accepting, claiming, inspections, products, reviews, thresholds, what_if
from shared.db import transaction
from shared.inspections import Failure, Recorded
from shared.intervals import exact
from shared.manifest import Thresholds
from shared.reviews import Decided, Filters
from shared.tables import Inspection, ModelVersion
from shared.verdicts import Disposition, QualityReason, Scores, Verdict, decide
from shared.what_if import Estimate, Judged, Share

LEASE = timedelta(minutes=2)
PRESENT = Thresholds(
    defect_probability=0.5,
    near_threshold_low=0.4,
    near_threshold_high=0.6,
    anomaly_score=4.0,
    domain_distance=50.0,
)
NO_BAND = PRESENT.model_copy(update={"near_threshold_low": 0.5, "near_threshold_high": 0.5})
GOOD, DEFECTIVE, UNDECIDABLE = Verdict.GOOD, Verdict.DEFECTIVE, Verdict.UNDECIDABLE


def photos(count, probability, anomaly_score=1.0, truth=None):
    scores = Scores(probability, 0.001, anomaly_score, 10.0, ())
    return [Judged(scores, decide(scores, PRESENT).disposition, truth)] * count


LOT = [
    # 100 passed; the random audit looked at 10 of them.
    *photos(90, 0.1),
    *photos(9, 0.1, truth=GOOD),
    *photos(1, 0.1, truth=DEFECTIVE),
    # 20 were held; people have decided 8 of them.
    *photos(12, 0.45),
    *photos(6, 0.45, truth=GOOD),
    *photos(2, 0.45, truth=DEFECTIVE),
    # 5 were rejected, which nobody checks.
    *photos(5, 0.9, anomaly_score=9.0),
]


def from_statsmodels(part, whole):
    return proportion_confint(part, whole, alpha=0.05, method="beta")


@pytest.mark.parametrize("whole", [1, 2, 10, 43, 1000])
def test_intervals_are_those_of_statsmodels_and_scipy(whole):
    for part in {0, 1, whole // 3, whole - 1, whole}:
        low, high = exact(part, whole)
        assert (low, high) == pytest.approx(from_statsmodels(part, whole), abs=1e-9)
        by_scipy = binomtest(part, whole).proportion_ci(confidence_level=0.95, method="exact")
        assert (low, high) == pytest.approx((by_scipy.low, by_scipy.high), abs=1e-9)


def test_of_nothing_there_is_no_interval():
    assert exact(0, 0) is None
    assert Share.among(0, 0) == Share(0, 0, None, None)


def test_the_thresholds_in_force_give_what_happened():
    now = what_if.ask(LOT, PRESENT)

    assert (now.photos, now.passes, now.rejects) == (125, 100, 5)
    assert (now.review_load.count, now.review_load.of) == (20, 125)
    assert (now.review_load.low, now.review_load.high) == pytest.approx(from_statsmodels(20, 125))
    # Of 3 parts that people found defective, one had passed.
    assert (now.escapes.decided.count, now.escapes.decided.of) == (1, 3)
    assert (now.escapes.decided.low, now.escapes.decided.high) == pytest.approx(
        from_statsmodels(1, 3)
    )
    # 1 in 10 of the audited ones, and 100 passed.
    low, high = from_statsmodels(1, 10)
    assert now.escapes.estimated.count == pytest.approx(10)
    assert now.escapes.estimated.low == pytest.approx(100 * low)
    assert now.escapes.estimated.high == pytest.approx(100 * high)
    assert now.escapes.unchecked == 0
    # Nothing that people saw was rejected, and whether the 5 were good nobody knows.
    assert (now.false_alarms.decided.count, now.false_alarms.decided.of) == (0, 15)
    assert now.false_alarms.estimated == Estimate(0.0, 0.0, 0.0)
    assert now.false_alarms.unchecked == 5


def test_without_a_band_what_was_held_passes_and_its_defects_escape():
    would = what_if.ask(LOT, NO_BAND)

    assert (would.passes, would.rejects, would.review_load.count) == (120, 5, 0)
    assert (would.escapes.decided.count, would.escapes.decided.of) == (3, 3)
    # 100 x 1/10 and 20 x 2/8.
    of_passed, of_held = from_statsmodels(1, 10), from_statsmodels(2, 8)
    assert would.escapes.estimated.count == pytest.approx(15)
    assert would.escapes.estimated.low == pytest.approx(100 * of_passed[0] + 20 * of_held[0])
    assert would.escapes.estimated.high == pytest.approx(100 * of_passed[1] + 20 * of_held[1])


def test_stricter_thresholds_reject_good_parts_that_were_held():
    strict = PRESENT.model_copy(
        update={
            **{"defect_probability": 0.4, "near_threshold_low": 0.4, "near_threshold_high": 0.4},
            "anomaly_score": 0.5,
        }
    )
    would = what_if.ask(LOT, strict)

    # Both models now doubt the 20; only the autoencoder doubts the 100.
    assert (would.passes, would.rejects, would.review_load.count) == (0, 25, 100)
    assert (would.false_alarms.decided.count, would.false_alarms.decided.of) == (6, 15)
    # 20 x 6/8.
    low, high = from_statsmodels(6, 8)
    assert would.false_alarms.estimated.count == pytest.approx(15)
    assert would.false_alarms.estimated.low == pytest.approx(20 * low)
    assert would.false_alarms.estimated.high == pytest.approx(20 * high)
    assert would.false_alarms.unchecked == 5
    assert would.escapes.decided.count == 0
    assert would.escapes.estimated == Estimate(0.0, 0.0, 0.0)


def test_what_was_rejected_and_would_pass_is_told_as_unchecked():
    lax = PRESENT.model_copy(
        update={
            **{"defect_probability": 0.95, "near_threshold_low": 0.95, "near_threshold_high": 0.95},
            "anomaly_score": 10.0,
        }
    )
    would = what_if.ask(LOT, lax)

    assert (would.passes, would.escapes.unchecked, would.false_alarms.unchecked) == (125, 5, 0)
    # The estimate does not speak of them.
    assert would.escapes.estimated.count == pytest.approx(15)


def test_where_nobody_has_looked_nothing_is_estimated():
    unseen = [*photos(50, 0.1), *photos(4, 0.45, truth=DEFECTIVE)]

    assert what_if.ask(unseen, PRESENT).escapes.estimated is None
    # Photos that would not pass need nobody to look at them.
    assert what_if.ask(photos(4, 0.45), PRESENT).escapes.estimated == Estimate(0.0, 0.0, 0.0)
    assert what_if.ask(photos(4, 0.45), NO_BAND).escapes.estimated is None


def test_a_part_that_nobody_could_tell_speaks_neither_for_good_nor_for_defective():
    judged = [
        *photos(80, 0.1),
        *photos(9, 0.1, truth=GOOD),
        *photos(1, 0.1, truth=DEFECTIVE),
        *photos(10, 0.1, truth=UNDECIDABLE),
    ]
    escapes = what_if.ask(judged, PRESENT).escapes

    assert (escapes.decided.count, escapes.decided.of) == (1, 1)
    # 1 in the 10 of which somebody could tell.
    low, high = from_statsmodels(1, 10)
    assert escapes.estimated.count == pytest.approx(10)
    assert (escapes.estimated.low, escapes.estimated.high) == pytest.approx((100 * low, 100 * high))
    unsure = what_if.ask(photos(3, 0.1, truth=UNDECIDABLE), PRESENT)
    assert unsure.escapes.estimated is None


def test_of_no_photos_nothing_is_said():
    nothing = what_if.ask([], PRESENT)

    assert (nothing.photos, nothing.review_load) == (0, Share(0, 0, None, None))
    assert nothing.escapes.estimated == Estimate(0.0, 0.0, 0.0)


# -- which photos count


@pytest.fixture
def judge(organisation):
    """A photo of these scores, judged by the version that is active; its id."""

    def judge(probability=0.1, *, product="bottle", fails=False, reasons=()):
        id_ = accepting.new_inspection_id()
        image = accepting.StoredImage(f"images/{id_}.png", "00" * 32, 1, "image/png", 900, 900)
        scores = Scores(probability, 0.001, 1.0, 10.0, reasons)
        with transaction() as session:
            accepting.accept(
                session,
                organisation_id=organisation,
                product=product,
                photo=accepting.Submitted(id_, image, accepting.Part(), 5),
                actor="test",
            )
        with transaction() as session:
            batch = claiming.claim(session, limit=1, lease=LEASE, worker="worker:a")
            version = session.get_one(ModelVersion, batch.inspections[0].model_version_id)
            outcome = decide(scores, Thresholds.model_validate(version.thresholds))
            if fails:
                failures = [Failure(id_, "unreadable_image", "cut off")]
                inspections.fail(session, token=batch.token, failures=failures, worker="worker:a")
            else:
                result = Recorded(id_, scores, outcome, "cpu", "o", "a", [], {})
                inspections.record(session, token=batch.token, results=[result], worker="worker:a")
        return id_

    return judge


def decide_next(verdict):
    with transaction() as session:
        row = reviews.claim_next(
            session,
            organisation_id="org_plant",
            reviewer="key_anna",
            filters=Filters(),
            lease=LEASE,
        )
        reviews.decide(
            session,
            organisation_id="org_plant",
            review_id=row.id,
            lease_token=row.lease_token,
            reviewer="key_anna",
            decided=Decided(verdict),
        )


def read(since=None):
    with transaction() as session:
        product = products.get_product(session, organisation_id="org_plant", name="bottle")
        active = thresholds.active_of(session, product)
        return what_if.read_judged(session, product, active, since=since)


def publish(manifest):
    with transaction() as session:
        version = products.publish(
            session,
            organisation_id="org_plant",
            manifest=manifest,
            is_stored=lambda _: True,
            actor="test",
        )
        products.activate(
            session,
            organisation_id="org_plant",
            name=manifest.product,
            version=version.version,
            actor="test",
        )


def probabilities(judged):
    return [photo.scores.defect_probability for photo in judged]


def test_photos_come_newest_first_with_the_latest_decision_and_the_model_s_disposition(judge):
    judge(0.1)
    judge(0.35)
    decide_next(DEFECTIVE)
    judge(0.36, reasons=(QualityReason.DARK,))
    judge(0.9, fails=True)

    judged = read()

    assert probabilities(judged) == [0.36, 0.35, 0.1]
    assert [photo.truth for photo in judged] == [None, DEFECTIVE, None]
    assert [photo.disposition for photo in judged] == [
        *(Disposition.HOLD, Disposition.HOLD),
        Disposition.PASS,
    ]
    assert judged[0].scores.quality_reasons == (QualityReason.DARK,)


def test_an_audited_part_counts_as_one_that_passed(judge):
    with transaction() as session:
        products.set_audit_share(
            session, organisation_id="org_plant", name="bottle", share=1.0, actor="test"
        )
    judge(0.1)
    decide_next(GOOD)

    (photo,) = read()
    assert (photo.disposition, photo.truth) == (Disposition.PASS, GOOD)


def test_photos_of_all_versions_with_the_same_files_count_and_keep_their_dispositions(
    judge, make_manifest
):
    judge(0.35)  # held: 0.3 to 0.4
    other = {"near_threshold_low": 0.336, "near_threshold_high": 0.336}
    given = make_manifest().thresholds.model_copy(update=other)
    publish(make_manifest(thresholds=given.model_dump(), policy="set by a person"))
    judge(0.32)  # passes: there is no band now

    judged = read()

    assert probabilities(judged) == [0.32, 0.35]
    assert [photo.disposition for photo in judged] == [Disposition.PASS, Disposition.HOLD]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"file": "model.safetensors", "sha256": "sha256:" + "1" * 64, "bytes": 1}},
        {"backbone": {"file": "backbone.safetensors", "sha256": "sha256:" + "1" * 64, "bytes": 1}},
        {"temperature": 2.0},
        {
            "quality": {
                **{"min_sharpness": 11.0, "min_brightness": 20.0},
                **{"max_brightness": 240.0, "min_side": 100},
            }
        },
    ],
    ids=lambda change: next(iter(change)),
)
def test_photos_of_another_model_do_not_count(judge, make_manifest, change):
    judge(0.1)
    publish(make_manifest(**change))
    judge(0.2)

    assert probabilities(read()) == [0.2]


def test_photos_of_another_product_do_not_count(judge, make_manifest):
    judge(0.1)
    publish(make_manifest("screw"))
    judge(0.2, product="screw")

    assert probabilities(read()) == [0.1]


def test_only_the_newest_photos_are_asked(judge, monkeypatch):
    monkeypatch.setattr(what_if, "MOST_PHOTOS", 2)
    for probability in (0.1, 0.2, 0.25):
        judge(probability)

    assert probabilities(read()) == [0.25, 0.2]


def test_photos_before_the_given_moment_do_not_count(judge):
    old = judge(0.1)
    judge(0.2)
    with transaction() as session:
        session.execute(
            update(Inspection)
            .where(Inspection.id == old)
            .values(created_at=Inspection.created_at - timedelta(days=1))
        )
        since = session.scalars(select(Inspection.created_at).where(Inspection.id != old)).one()

    assert probabilities(read(since)) == [0.2]
