"""Figures over all thresholds: ROC, precision and recall, reliability, review load.

Pure functions of judged photos; each returns what JSON can hold and a plot can
draw.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from worker.train.intervals import Resamples, percentile
from worker.train.judged import Columns, Flags, Floats

_PHOTOS_A_BIN = 10
_MAX_BINS = 10
_SIMULATIONS = 2000


def roc(scores: Floats, is_defective: Flags) -> dict[str, list[float]]:
    """False-alarm rate and recall at every threshold that changes one of them."""
    false_alarms, recall, _ = roc_curve(is_defective, scores)
    return {"false_alarm_rate": _listed(false_alarms), "recall": _listed(recall)}


def precision_recall(scores: Floats, is_defective: Flags) -> dict[str, list[float]]:
    """Recall and precision at every threshold, from the strictest on."""
    precision, recall, _ = precision_recall_curve(is_defective, scores, drop_intermediate=True)
    return {"recall": _listed(recall[::-1]), "precision": _listed(precision[::-1])}


def reliability(photos: Columns, resamples: Resamples, *, seed: int) -> dict[str, Any]:
    """Whether a probability of 80 % is right in 80 %: ECE and its reliability diagram.

    Bins of equal mass. Good and defective photos weigh the same in total, as
    they do where the temperature is fitted: a folder's own mix says nothing of
    the line that the parts come from. `if_calibrated` is the ECE that perfectly
    calibrated probabilities would show on as few photos: [mean, 95th percentile].
    """
    y = photos.is_defective.astype(np.float64)
    weights = np.where(photos.is_defective, 0.5 / y.sum(), 0.5 / (1 - y).sum())
    bins = min(_MAX_BINS, max(2, len(y) // _PHOTOS_A_BIN))
    places = _equal_mass(photos.probability, weights, bins)
    is_in = places[:, None] == np.unique(places)  # (N, bins)
    gaps = weights * (photos.probability - y)
    of_resamples = np.abs((resamples.counts * gaps) @ is_in).sum(axis=1)

    rng = np.random.default_rng(seed)
    mass = weights @ is_in
    mean = (weights * photos.probability) @ is_in / mass
    effective = mass**2 / (weights**2 @ is_in)
    simulated = rng.binomial(np.rint(effective).astype(np.int64), mean, (_SIMULATIONS, len(mean)))
    by_chance = (mass * np.abs(simulated / np.rint(effective) - mean)).sum(axis=1)
    return {
        "ece": float(np.abs(gaps @ is_in).sum()),
        "interval": percentile(of_resamples),
        "if_calibrated": [float(by_chance.mean()), float(np.quantile(by_chance, 0.95))],
        "bins": [
            {
                "photos": int(members.sum()),
                "defective": int(y[members].sum()),
                "mean_probability": float(mean[number]),
                "defective_share": float((weights * y)[members].sum() / mass[number]),
            }
            for number, members in enumerate(is_in.T)
        ],
    }


def _equal_mass(values: Floats, weights: Floats, bins: int) -> NDArray[np.int64]:
    """The bin (N,) of each value, bins of the same weight as far as equal values let them be."""
    unique, group = np.unique(values, return_inverse=True)
    mass = np.bincount(group, weights, minlength=len(unique))
    middle = np.cumsum(mass) - mass / 2
    number = np.minimum((middle / mass.sum() * bins).astype(np.int64), bins - 1)
    return np.asarray(number[group], np.int64)


def review(photos: Columns) -> dict[str, Any]:
    """What more looking would cost and save: good parts held, and defects that pass unseen.

    `band`: the classifier's review band from none to everything, the autoencoder
    as it is. `anomaly`: the autoencoder's threshold moved by so many standard
    deviations, the band as it is. `operating_point`: as decided. `least_held_without_escapes`: the
    smallest share of good parts held among all these settings that let no defect
    of these photos pass; None if every one lets some pass.
    """
    is_undecidable = ~photos.is_decidable
    is_contested = photos.called_defective != photos.called_anomalous
    distances = np.abs(photos.log_odds_above)
    widths = np.append(0.0, np.unique(distances[photos.is_decidable & ~is_contested]))
    held_by_band = (
        is_undecidable | is_contested | ((distances <= widths[:, None]) & (widths[:, None] > 0))
    )

    moves = np.unique(photos.anomaly_above)
    moves = np.append(moves, moves[-1:] + 1)  # the last: nothing is anomalous any more
    is_anomalous = photos.anomaly_above >= moves[:, None]
    held_by_move = is_undecidable | (photos.called_defective != is_anomalous) | photos.is_near
    held = is_undecidable | is_contested | photos.is_near
    band, anomaly = _cost(photos, held_by_band), _cost(photos, held_by_move)
    now = _cost(photos, held[None])
    spared = [
        share
        for cost in (band, anomaly, now)
        for share, escapes in zip(cost["good_held"], cost["escapes"], strict=True)
        if not escapes
    ]
    return {
        "band": {"log_odds": _listed(widths), **band},
        "anomaly": {"deviations": _listed(moves), **anomaly},
        "operating_point": {name: values[0] for name, values in now.items()},
        "least_held_without_escapes": min(spared, default=None),
    }


def _cost(photos: Columns, is_held: Flags) -> dict[str, list[Any]]:
    """Good parts held (share) and escapes (count) for each line of is_held (S, N)."""
    is_good = ~photos.is_defective
    escapes = (~is_held & photos.is_defective & ~photos.called_defective).sum(axis=1)
    return {
        "good_held": _listed((is_held & is_good).sum(axis=1) / is_good.sum()),
        "escapes": [int(count) for count in escapes],
    }


def _listed(values: Floats) -> list[float]:
    return [round(float(value), 6) for value in values]
