import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from shared.intervals import exact
from worker.train.intervals import (
    auroc_difference,
    exact_auroc,
    in_words,
    percentile,
    resample,
    upper_bound,
)


def flags(text):
    return np.array([letter == "x" for letter in text])


def drawn(photos, counts):
    """The photos of one resample, one by one."""
    return np.repeat(np.arange(photos), counts.astype(int))


def test_no_error_in_43_leaves_room_for_almost_seven_percent():
    # (1 - p)^43 = 0.05
    assert upper_bound(0, 43) == pytest.approx(1 - 0.05 ** (1 / 43))
    assert in_words(0, 43, one="escape", many="escapes", of="defective parts") == (
        "0 escapes in 43 defective parts: the true rate may still be up to 6.7 %."
    )


def test_some_errors_are_said_with_both_ends():
    # Clopper-Pearson of 1 in 43, from tables: 0.06 % to 12.29 %.
    assert in_words(1, 43, one="escape", many="escapes", of="defective parts") == (
        "1 escape in 43 defective parts (2.3 %): the true rate may be anything from 0.1 % to "
        "12.3 %."
    )


def test_of_nothing_nothing_is_said():
    assert exact(0, 0) is None
    assert in_words(0, 0, one="escape", many="escapes", of="defective parts") == (
        "There are no defective parts: nothing can be said of escapes."
    )


def test_exact_intervals_have_a_width_where_all_or_none_went_wrong():
    assert exact(0, 10) == pytest.approx((0, 1 - 0.025 ** (1 / 10)))
    assert exact(10, 10) == pytest.approx((0.025 ** (1 / 10), 1))


def test_an_exact_interval_covers_the_truth_as_often_as_it_says():
    for truth in (0.02, 0.3, 0.9):
        hits = np.random.default_rng(5).binomial(30, truth, 2000)
        ends = {part: exact(part, 30) for part in set(hits.tolist())}
        covered = np.mean([ends[part][0] <= truth <= ends[part][1] for part in hits.tolist()])
        assert covered >= 0.945


def test_perfect_ranking_of_few_photos_is_not_certain():
    # Ten pairs that share no photo, all in the right order.
    assert exact_auroc(10, 43) == pytest.approx((0.025**0.1, 1))


def test_every_resample_has_as_many_good_and_defective_photos_as_the_folder():
    labels = flags("...xx.x")
    counts = resample(labels, seed=3, resamples=200).counts
    assert (counts[:, labels].sum(axis=1) == 3).all()
    assert (counts[:, ~labels].sum(axis=1) == 4).all()
    assert counts.max() > 1
    # Each photo is drawn once on average.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.25)


def test_the_same_seed_draws_the_same_photos():
    labels = flags("...xx.x")
    np.testing.assert_array_equal(resample(labels, seed=3).counts, resample(labels, seed=3).counts)
    assert (resample(labels, seed=3).counts != resample(labels, seed=4).counts).any()


def test_figures_of_resamples_are_those_of_scikit_learn_ties_and_all():
    rng = np.random.default_rng(2)
    labels = rng.random(40) < 0.4
    scores = np.round(rng.normal(labels, 1.0), 1)  # with ties
    assert len(np.unique(scores)) < 35
    resamples = resample(labels, seed=1, resamples=60)
    auroc, precision = resamples.auroc(scores), resamples.average_precision(scores)
    f1 = resamples.f1(scores > 0.5)
    for number, counts in enumerate(resamples.counts):
        photos = drawn(40, counts)
        assert auroc[number] == pytest.approx(roc_auc_score(labels[photos], scores[photos]))
        assert precision[number] == pytest.approx(
            average_precision_score(labels[photos], scores[photos])
        )
        assert f1[number] == pytest.approx(f1_score(labels[photos], scores[photos] > 0.5))


def test_the_middle_95_percent_are_kept():
    assert percentile(np.arange(1001.0)) == pytest.approx((25, 975))


def test_two_thousand_resamples_of_300_photos_take_less_than_two_seconds():
    rng = np.random.default_rng(0)
    labels = np.arange(300) < 63
    scores = rng.normal(labels, 1.0)
    started = time.process_time()
    resamples = resample(labels, seed=0)
    resamples.auroc(scores)
    resamples.average_precision(scores)
    resamples.f1(scores > 0.5)
    assert time.process_time() - started < 2


def test_the_difference_of_two_aurocs_is_that_of_scikit_learn_ties_and_all():
    rng = np.random.default_rng(1)
    is_defective = rng.random(80) < 0.3
    first, second = (np.round(is_defective + rng.normal(0, spread, 80), 1) for spread in (0.7, 1.5))
    gain, error = auroc_difference(is_defective, first, second)
    assert gain == pytest.approx(
        roc_auc_score(is_defective, first) - roc_auc_score(is_defective, second)
    )
    assert 0.02 < error < 0.2
    assert auroc_difference(is_defective, first, 2 * first) == (0.0, 0.0)


def test_its_standard_error_is_how_much_it_varies_from_draw_to_draw():
    rng = np.random.default_rng(2)
    is_defective = np.arange(100) < 30
    found = []
    for _ in range(400):
        shared = is_defective + rng.normal(0, 1, 100)
        scores = [shared + rng.normal(0, spread, 100) for spread in (0.3, 1.0)]
        found.append(auroc_difference(is_defective, *scores))
    gains, errors = np.array(found).T
    assert errors.mean() == pytest.approx(gains.std(), rel=0.15)
