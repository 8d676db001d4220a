"""Curves and histograms against scikit-learn and numpy."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from api.web import curves, drawing


@pytest.mark.parametrize("seed", range(5))
def test_areas_and_points_are_those_of_scikit_learn_also_with_ties(seed):
    random = np.random.default_rng(seed)
    truth = random.random(60) < 0.4
    scores = np.round(random.normal(truth.astype(float), 1.0), 1)
    found = curves.curves(list(scores[~truth]), list(scores[truth]))

    assert found.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert found.average_precision == pytest.approx(average_precision_score(truth, scores))
    precision, recall, _ = precision_recall_curve(truth, scores)
    # Theirs goes the other way and ends at (0, 1).
    theirs = list(zip(recall[-2::-1], precision[-2::-1], strict=True))
    assert np.allclose(found.precision_recall, theirs)
    assert (found.roc[0], found.roc[-1]) == ((0.0, 0.0), (1.0, 1.0))


def test_at_the_threshold_counts_as_called():
    assert curves.operating_point([0.1, 0.5], [0.5, 0.9], 0.5) == (0.5, 1.0, 2 / 3)
    assert curves.operating_point([0.1], [0.2], 0.5) == (0.0, 0.0, None)


def test_a_histogram_is_that_of_numpy_and_its_ends_take_what_lies_outside():
    scores = list(np.random.default_rng(1).random(200))
    theirs, _ = np.histogram(scores, bins=7, range=(0, 1))

    assert curves.histogram(scores, 0.0, 1.0, 7) == theirs.tolist()
    assert curves.histogram([-9.0, 0.0, 1.0, 9.0], 0.0, 1.0, 2) == [2, 2]


def test_a_precision_recall_curve_is_drawn_in_steps():
    assert drawing.steps([(0.5, 1.0), (1.0, 0.8)]) == "M0.0 0.0 L50.0 0.0 L50.0 20.0 L100.0 20.0"


def test_the_fullest_bar_fills_the_height_and_empty_ones_are_not_drawn():
    assert drawing.bars([4, 0, 1, 2]) == (
        "M0.0 100v-100.0h248.0V100zM500.0 100v-25.0h248.0V100zM750.0 100v-50.0h248.0V100z"
    )
