from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from worker.inspect.preprocess import Photo, Quality
from worker.train.calibration import Policy
from worker.train.crossvalidation import AutoencoderReadings, ClassifierReadings
from worker.train.dataset import LabelledPhoto
from worker.train.decision import Readings, fit_decider, judge_out_of_fold
from worker.train.judged import columns
from worker.train.metrics import figures

DATA = Path("data")


def readings(good: int = 40, defective: int = 20, seed: int = 0) -> Readings:
    """Good photos read low, defective ones high, with some overlap; five folds in turn."""
    rng = np.random.default_rng(seed)
    count = good + defective
    is_defective = np.arange(count) >= good
    photo = Photo(np.zeros((1, 1, 3), np.uint8), Quality(100.0, 120.0, 300))
    strangeness = torch.zeros(count, 4, 4)
    strangeness[:, 1, 2] = torch.from_numpy(
        np.where(is_defective, 9.0, 2.0) * np.exp(rng.normal(0, 0.2, count))
    )
    margins = np.where(is_defective, 2.0, -2.0) + rng.normal(0, 1.2, count)
    return Readings(
        photos=[
            LabelledPhoto(
                DATA / "test" / f"{number}.png",
                "test",
                "bent" if is_defective[number] else "good",
                str(number),
                photo,
                number,
            )
            for number in range(count)
        ],
        fold_of=np.arange(count) % 5,
        classifier=ClassifierReadings(
            margins=margins,
            synthetic_margins=np.where(is_defective, np.nan, 1.0 + rng.normal(0, 1, count)),
            evidence=torch.zeros(count, 8, 8),
            domain_distances=rng.uniform(30, 40, count),
            synthetic_distances=np.where(is_defective, np.nan, rng.uniform(30, 200, count)),
        ),
        autoencoder=AutoencoderReadings(
            mses=np.full(count, 0.001),
            deviations=torch.zeros(count, 4, 4),
            strangeness=strangeness,
        ),
    )


def judged(some: Readings, policy: str = "best-f1"):
    return judge_out_of_fold([some] * 5, policy=Policy(policy), data=DATA, masks={})


def test_a_fold_is_decided_by_thresholds_that_its_own_photos_had_no_part_in():
    some, other = readings(), readings()
    in_fold = other.fold_of == 2
    other.classifier.margins[in_fold] = -other.classifier.margins[in_fold] + 7
    other.autoencoder.strangeness[in_fold] *= 5
    other.classifier.domain_distances[in_fold] = 1000
    before, after = judged(some), judged(other)
    for row in range(len(before)):
        is_same = before[row].thresholds == after[row].thresholds
        assert is_same == bool(in_fold[row])
        assert (before[row].maps.limits == after[row].maps.limits) == bool(in_fold[row])


def test_the_bundle_gets_its_thresholds_from_all_readings():
    some = readings()
    everything = np.ones(60, bool)
    decider = fit_decider(some, everything, Policy("recall=1"))
    probabilities = 1 / (1 + np.exp(-some.classifier.margins / decider.temperature))
    assert decider.thresholds.defect_probability <= probabilities[some.is_defective].min()
    without = fit_decider(some, some.fold_of != 0, Policy("recall=1"))
    assert without.thresholds != decider.thresholds


def test_defects_place_no_threshold_of_the_autoencoder():
    some, other = readings(), readings()
    other.autoencoder.strangeness[other.is_defective] *= 9
    everything = np.ones(60, bool)
    first, second = (fit_decider(r, everything, Policy("best-f1")) for r in (some, other))
    assert first.thresholds.anomaly_score == second.thresholds.anomaly_score


def test_one_good_part_in_twenty_is_anomalous_and_one_in_fifty_near_the_threshold():
    some = readings(4000, 400)
    decider = fit_decider(some, np.ones(4400, bool), Policy("best-f1"))
    thresholds, good = decider.thresholds, ~some.is_defective
    probabilities = 1 / (1 + np.exp(-some.classifier.margins[good] / decider.temperature))
    is_near = (probabilities >= thresholds.near_threshold_low) & (
        probabilities < thresholds.near_threshold_high
    )
    assert (some.autoencoder.scores[good] >= thresholds.anomaly_score).mean() == pytest.approx(
        0.05, abs=0.01
    )
    assert is_near.mean() == pytest.approx(0.02, abs=0.001)


@pytest.mark.parametrize("defective", [0, 3])
def test_with_few_defects_synthetic_ones_help_to_place_the_threshold(defective):
    some = readings(40, defective)
    decider = fit_decider(some, np.ones(40 + defective, bool), Policy("best-f1"))
    probabilities = 1 / (1 + np.exp(-some.classifier.margins / decider.temperature))
    is_good = ~some.is_defective
    assert 0.0 < decider.thresholds.defect_probability < 1.0
    assert (probabilities[is_good] >= decider.thresholds.defect_probability).mean() < 0.35
    assert len(judged(some)) == 40 + defective


def test_where_all_defects_are_of_one_fold_synthetic_ones_place_its_threshold():
    """A part photographed twenty times is one group. By no defect at all, nearly every good part
    of its fold would be called defective, and every defect found."""
    some = readings()
    some.fold_of[some.is_defective] = 2
    photos = [photo for photo, fold in zip(judged(some), some.fold_of, strict=True) if fold == 2]
    good = [photo for photo in photos if not photo.is_defective]
    assert sum(photo.outcome.is_defective for photo in good) <= 2
    assert {photo.thresholds.defect_probability for photo in photos} != {
        photo.thresholds.defect_probability for photo in judged(readings())
    }


def test_all_synthetic_defects_count_as_much_as_the_real_ones_that_are_missing():
    """Nine real defects read high: two hundred synthetic ones that read low may not hide them."""
    some = readings(200, 9)
    some.classifier.margins[some.is_defective] = 4.0
    some.classifier.synthetic_margins[~some.is_defective] = -6.0
    decider = fit_decider(some, np.ones(209, bool), Policy("recall=0.9"))
    probabilities = 1 / (1 + np.exp(-some.classifier.margins / decider.temperature))
    assert (probabilities[some.is_defective] >= decider.thresholds.defect_probability).all()
    assert decider.thresholds.defect_probability > np.median(probabilities[~some.is_defective])
    # Nor may they take the domain further than the one that is missing would.
    assert decider.thresholds.domain_distance <= 1.5 * 40


def test_without_real_defects_the_domain_reaches_as_far_as_synthetic_ones_lie():
    """By good parts alone, at 30 to 40, every badly damaged part would be out of domain."""
    some, everything = readings(40, 0), np.ones(40, bool)
    limit = fit_decider(some, everything, Policy("best-f1")).thresholds.domain_distance
    assert 1.5 * 100 < limit <= 1.5 * 200
    # With enough real ones, at 30 to 40 as well, nothing synthetic counts.
    enough = readings(40, 10)
    limit = fit_decider(enough, np.ones(50, bool), Policy("best-f1")).thresholds.domain_distance
    assert limit <= 1.5 * 40


def test_paths_and_scores_are_those_of_the_photo():
    some = readings()
    for row, photo in enumerate(judged(some)):
        assert photo.path == f"test/{row}.png"
        assert photo.is_defective == (row >= 40)
        assert photo.scores.anomaly_score == pytest.approx(
            float(some.autoencoder.strangeness[row].max())
        )
        assert photo.outcome.is_defective == (
            photo.scores.defect_probability >= photo.thresholds.defect_probability
        )
        assert not photo.is_seen


def test_photos_are_ranked_as_one_bundle_would_whatever_the_temperature_of_their_fold():
    some = readings()
    # One fold is so sure of itself that others must be stretched: its own temperature is another.
    some.classifier.margins[some.fold_of == 1] *= 8
    photos = judged(some)

    found = figures(photos)["classifier"]
    assert found["auroc"] == roc_auc_score(some.is_defective, some.classifier.margins)
    probabilities = [photo.scores.defect_probability for photo in photos]
    assert found["auroc"] != roc_auc_score(some.is_defective, probabilities)
    assert columns(photos).rank.tolist() == some.classifier.margins.tolist()
