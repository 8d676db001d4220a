"""Where the thresholds and scales of a bundle come from.

Everything here is a function of scores that a model gave to photos which that
model had not been fitted on: out-of-fold predictions, and good photos kept
from the autoencoder. Nothing here ever sees a held-out photo.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression

from shared.errors import InvalidInput
from shared.manifest import QualityLimits
from worker.inspect.preprocess import SIDE, Quality

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

_TEMPERATURES = np.geomspace(0.2, 20.0, 461)
_PROBABILITY_EDGE = 1e-6
_SMALLEST = 1e-6
_INVERSE_STRENGTH = 1e3
"""Of what keeps a curve from becoming a step where good and defective do not overlap."""
_NORMAL = 1.4826
"""Median deviations in a standard deviation of a normal distribution."""
_EFFICIENCY = 0.37
"""A median deviation says as much of the spread as a standard deviation of this share of the
values (Rousseeuw and Croux 1993)."""


def fit_temperature(margins: Scores, is_defective: Flags, worth: Scores | None = None) -> float:
    """What to divide logits by so that probabilities are as sure as they are right.

    margins (N,): logit of defective minus logit of good, out of fold. The
    temperature with the least cross-entropy (Guo et al. 2017), good and
    defective weighing the same as they do in training. `worth` (N,): how much each
    reading counts beside others of its class, 1 where not given.
    """
    signs = np.where(is_defective, 1.0, -1.0)
    counts = np.ones(len(margins)) if worth is None else worth
    totals = np.where(is_defective, counts[is_defective].sum(), counts[~is_defective].sum())
    weights = 0.5 * counts / totals
    losses = [(weights * np.logaddexp(0.0, -signs * margins / t)).sum() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def probabilities(margins: Scores, temperature: float) -> Scores:
    """Probability of a defect from the difference of the two logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-margins / temperature)), np.float64)


@dataclass(frozen=True)
class Policy:
    """What a threshold is chosen for: `best-f1`, `recall=0.99` or `cost=20:1`."""

    text: str

    def __post_init__(self) -> None:
        if self.text == "best-f1":
            return
        name, _, value = self.text.partition("=")
        try:
            if name == "recall" and 0 < float(value) <= 1:
                return
            escape, _, alarm = value.partition(":")
            if name == "cost" and 0 < float(escape) < math.inf and 0 < float(alarm) < math.inf:
                return
        except ValueError:
            pass
        raise InvalidInput(
            f"{self.text!r} is no policy: best-f1, recall=R with R from 0 to 1 (recall=0.99), or "
            "cost=E:A, the costs of an escape and of a false alarm (cost=20:1)",
            field="policy",
        )

    def threshold(self, scores: Scores, is_defective: Flags, worth: Scores | None = None) -> float:
        """The threshold that suits the policy best, a score at or above it being defective.

        Scores are probabilities. Halfway between two neighbouring ones, or just below all. For a
        recall the highest threshold that reaches it on these photos; for costs the lowest that is
        cheapest on them, because an escape costs more than a false alarm. For best F1 the best that
        is to be expected by a logistic curve through all scores (plug-in rule, Ye et al. 2012), not
        by what the few photos near the threshold happened to be. `worth` (N,): how much each score
        counts, 1 where not given.
        """
        counts = np.ones(len(scores)) if worth is None else worth
        order = np.sort(np.unique(scores))
        # Half the lowest score is below it by more than the rounding of serving.
        candidates = np.concatenate([[order[0] / 2], (order[1:] + order[:-1]) / 2])
        name, _, value = self.text.partition("=")
        # How much of each score is a defect.
        defect = (
            _chances(scores, is_defective, counts)
            if name == "best-f1"
            else is_defective.astype(float)
        )
        # At each candidate: how much of either class lies at or above it.
        hits = _at_or_above(scores, counts * defect, candidates)
        alarms = _at_or_above(scores, counts * (1 - defect), candidates)
        defects = float((counts * defect).sum())
        if name == "recall":
            # The lowest candidate finds everything, so there is always one.
            reaching = hits >= float(value) * defects - 1e-9
            return float(candidates[reaching][-1])
        if name == "cost":
            escape, _, alarm = value.partition(":")
            costs = float(escape) * (defects - hits) + float(alarm) * alarms
            return float(candidates[int(np.argmin(costs))])
        found = 2 * hits / (hits + alarms + defects)
        return float(candidates[int(np.argmax(found))])


def _chances(scores: Scores, is_defective: Flags, counts: Scores) -> Scores:
    """How probable a defect is at each score where good and defective are as frequent as here."""
    log_odds = _log_odds(scores)[:, None]
    curve = LogisticRegression(C=_INVERSE_STRENGTH, max_iter=1000)
    curve.fit(log_odds, is_defective, sample_weight=counts)
    return np.asarray(curve.predict_proba(log_odds)[:, 1], np.float64)


def _at_or_above(scores: Scores, counts: Scores, thresholds: Scores) -> Scores:
    order = np.argsort(scores)
    total = np.concatenate([np.cumsum(counts[order][::-1])[::-1], [0.0]])
    above: Scores = total[np.searchsorted(scores[order], thresholds, side="left")]
    return above


def near_band(
    scores: Scores, is_defective: Flags, threshold: float, *, max_good_share: float = 0.02
) -> tuple[float, float]:
    """Probabilities between which a person looks: [low, high) around the threshold.

    Wide enough for every out-of-fold error, unless more than `max_good_share`
    of the good photos would lie in it: then as wide as that allows. The same
    distance in log-odds on both sides.
    """
    centre = _log_odds(np.array([threshold]))[0]
    distances = np.abs(_log_odds(scores) - centre)
    is_wrong = (scores >= threshold) != is_defective
    wanted = float(distances[is_wrong].max(initial=0.0))
    of_good = np.sort(distances[~is_defective])
    allowed = int(max_good_share * len(of_good))
    # Up to just below the first good photo too many.
    widest = float(of_good[allowed]) if allowed < len(of_good) else np.inf
    half = min(wanted * 1.0001, widest * 0.9999)
    low, high = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return float(low), float(high)


def _log_odds(scores: Scores) -> Scores:
    clipped = np.clip(scores, _PROBABILITY_EDGE, 1 - _PROBABILITY_EDGE)
    return np.asarray(np.log(clipped / (1 - clipped)), np.float64)


def upper_limit(values: Scores, *, deviations: float, parts: int) -> float:
    """A limit that positive, right-skewed values like these rarely pass.

    Of the logarithms, as `upper_limit_of_symmetric`.
    """
    logs = np.log(np.maximum(values, _SMALLEST))
    return float(np.exp(upper_limit_of_symmetric(logs, deviations=deviations, parts=parts)))


def upper_limit_of_symmetric(values: Scores, *, deviations: float, parts: int) -> float:
    """What the next value of a normal distribution passes as rarely as its mean plus `deviations`.

    From median and scaled median deviation: a few odd ones among the values move it little. A
    one-sided prediction interval, because twenty values know their own spread only roughly: with
    two deviations they would let through twice as many as two hundred do. Photos of the same part
    tell no more than one: `parts` is how many different ones the values are of.
    """
    median = float(np.median(values))
    spread = _NORMAL * float(np.median(np.abs(values - median)))
    freedom = max(1.0, _EFFICIENCY * (parts - 1))
    widened = float(student.ppf(normal.cdf(deviations), freedom))
    # The median of so few is itself off, by more than their mean would be.
    return median + widened * math.sqrt(1 + math.pi / (2 * parts)) * spread


def domain_limit(distances: Scores, counts: Scores | None = None) -> float:
    """The distance beyond which a photo is not of the product, from those out of fold.

    Half as far again as all but 2 % of the training photos, defects included: a
    badly broken part is still the product. On MVTec bottle the photos lie at 30
    to 72, the limit at some 90, photos of other things from 265 on.

    `counts` (N,): as how many photos each distance counts, one if not given.
    """
    return 1.5 * float(np.quantile(distances, 0.98, method="inverted_cdf", weights=counts))


def quality_limits(qualities: Sequence[Quality]) -> QualityLimits:
    """Limits with a margin around the training photos: a camera drifts a little."""
    sharpness = np.array([quality.sharpness for quality in qualities])
    brightness = np.array([quality.brightness for quality in qualities])
    return QualityLimits(
        min_sharpness=0.4 * float(sharpness.min()),
        min_brightness=0.6 * float(brightness.min()),
        # Half of the way from the brightest photo to a white one.
        max_brightness=min(255.0, (float(brightness.max()) + 255.0) / 2),
        # What the models see has 256 pixels: a photo with fewer has lost some of it, but not if
        # those of the training had fewer as well.
        min_side=round(0.75 * min(SIDE, *(quality.side for quality in qualities))),
    )


def attention_limit(peaks: Scores, is_defective: Flags) -> float:
    """The Grad-CAM value to draw fully red, from the peak (N,) of each photo out of fold.

    The peak of a typical defect, unless good parts would then not stay blue:
    nine good parts of ten peak in the lowest third of the scale.
    """
    of_defects = float(np.median(peaks[is_defective])) if is_defective.any() else 0.0
    of_good = float(np.quantile(peaks[~is_defective], 0.9))
    return max(of_defects, 3 * of_good, 1e-6)
