"""How the photos of a product are shown to its head: the data say so, out of fold.

Turning a photo is harmless for a bottle from above and wrong for a part whose defect is lying the
wrong way round. A small defect is best seen in the cells that are furthest from good parts, one
that is everywhere in the average over all of them. A linear probe (Alain and Bengio 2017) tells one
from the other in seconds, where the head takes minutes.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from worker.train.crossvalidation import split_folds
from worker.train.features import CachedFeatures, Shown, hold_against
from worker.train.good_features import fit_good_features
from worker.train.head import ENOUGH_DEFECTS, sample_of, standardisation_of
from worker.train.intervals import auroc_difference
from worker.train.progress import Progress, silent

PEAKS = 8.0
"""Exponent of a mean that listens to the cells that are furthest off: near the largest of 64."""
_INVERSE_STRENGTH = 500.0
"""Of the probe's regularisation: an L2 penalty of 0.001 beside a mean loss."""


@dataclass(frozen=True)
class Probe:
    """What the probes of the folds say of each photo."""

    margins: NDArray[np.float64]  # (N,), log-odds of a defect
    synthetic_margins: NDArray[np.float64]
    """(N,): of a good photo with synthetic defects; NaN for others."""


def read_probes(
    features: CachedFeatures, fold_of: NDArray[np.int64], *, progress: Progress = silent
) -> dict[Shown, Probe]:
    """A probe for each way to show the photos, the usual one first."""
    every = features.maps.shape[1]
    ways = [Shown(copies, exponent) for exponent in (PEAKS, 1.0) for copies in (every, 1)]
    probes: dict[Shown, Probe] = {}
    for number, shown in enumerate(ways, start=1):
        probes[shown] = _probe(features, fold_of, shown)
        progress("ways to show the photos", number, len(ways))
    return probes


def choose(
    probes: Mapping[Shown, Probe], features: CachedFeatures, rows: NDArray[np.bool_]
) -> Shown:
    """The usual way, unless another one ranks these rows (N,) clearly better.

    A difference within its standard error (DeLong et al. 1988) is chance. Only real defects can say
    how large they are: without enough of them among the rows, they are taken for small.
    """
    usual, *others = probes
    if int(features.is_defective.numpy()[rows].sum()) < ENOUGH_DEFECTS:
        others = [other for other in others if other.exponent == usual.exponent]
    is_defective, margins = _labelled(probes[usual], features, rows)
    best, most = usual, 0.0
    for other in others:
        _, others_margins = _labelled(probes[other], features, rows)
        gain, error = auroc_difference(is_defective, others_margins, margins)
        if gain > error and gain > most:
            best, most = other, gain
    return best


def _probe(features: CachedFeatures, fold_of: NDArray[np.int64], shown: Shown) -> Probe:
    margins = np.zeros(len(fold_of))
    synthetic = np.full(len(fold_of), np.nan)
    for fitted, read in split_folds(fold_of):
        is_good = ~features.is_defective[fitted]
        good = fit_good_features(features.maps[fitted[is_good], : shown.copies])
        sample = sample_of(hold_against(features, fitted, good, shown=shown))
        mean, std = standardisation_of(sample.pooled)
        probe = LogisticRegression(C=_INVERSE_STRENGTH, max_iter=200)
        with warnings.catch_warnings():
            # Nearly there, it ranks as well.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(
                ((sample.pooled - mean) / std).numpy(),
                sample.is_defective.numpy(),
                sample_weight=sample.weights.double().numpy(),
            )
        pooled = hold_against(features, read, good, shown=Shown(1, shown.exponent))
        margins[read] = probe.decision_function(((pooled.photos[:, 0] - mean) / std).numpy())
        damaged = read[~pooled.is_defective]
        synthetic[damaged] = probe.decision_function(
            ((pooled.synthetic[~pooled.is_defective, 0] - mean) / std).numpy()
        )
    return Probe(margins, synthetic)


def _labelled(
    probe: Probe, features: CachedFeatures, rows: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Against real defects, where there are enough of them, else with synthetic ones."""
    is_defective = features.is_defective.numpy()[rows]
    margins = probe.margins[rows]
    if int(is_defective.sum()) < ENOUGH_DEFECTS:
        synthetic = probe.synthetic_margins[rows][~is_defective]
        margins = np.concatenate([margins, synthetic])
        is_defective = np.concatenate([is_defective, np.ones(len(synthetic), np.bool_)])
    return is_defective, margins
