"""Where the thresholds and scales of a bundle come from.

Everything here is a function of scores that a model gave to photos which that
model had not been fitted on: out-of-fold predictions, and good photos kept
from the autoencoder. Nothing here ever sees a held-out photo.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.manifest import QualityLimits
from worker.inspect.preprocess import Quality

Scores = NDArray[np.float64]
Flags = NDArray[np.bool_]

_TEMPERATURES = np.geomspace(0.2, 20.0, 461)
_PROBABILITY_EDGE = 1e-6


def fit_temperature(margins: Scores, is_defective: Flags) -> float:
    """What to divide logits by so that probabilities are as sure as they are right.

    margins (N,): logit of defective minus logit of good, out of fold. The
    temperature with the least cross-entropy (Guo et al. 2017), good and
    defective weighing the same as they do in training.
    """
    signs = np.where(is_defective, 1.0, -1.0)
    weights = np.where(is_defective, 0.5 / is_defective.sum(), 0.5 / (~is_defective).sum())
    losses = [(weights * np.logaddexp(0.0, -signs * margins / t)).sum() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def probabilities(margins: Scores, temperature: float) -> Scores:
    """Probability of a defect from the difference of the two logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-margins / temperature)), np.float64)


def best_f1_threshold(scores: Scores, is_defective: Flags) -> float:
    """The threshold with the best F1 where a score at or above it is called defective.

    Halfway between two neighbouring scores. Of equally good ones the lowest:
    an escape costs more than a false alarm.
    """
    order = np.sort(np.unique(scores))
    candidates = np.concatenate([[order[0]], (order[1:] + order[:-1]) / 2])
    return max(
        (float(c) for c in candidates),
        key=lambda threshold: (f1(scores >= threshold, is_defective), -threshold),
    )


def f1(is_called: Flags, is_defective: Flags) -> float:
    """Harmonic mean of precision and recall; 0 where nothing defective was found."""
    hits = int((is_called & is_defective).sum())
    return 2 * hits / max(1, int(is_called.sum()) + int(is_defective.sum()))


def near_band(
    scores: Scores, is_defective: Flags, threshold: float, *, max_good_share: float = 0.05
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


def upper_limit(values: Scores, *, deviations: float) -> float:
    """A limit that positive, right-skewed values like these rarely pass.

    Median and scaled median deviation of their logarithms: few photos, and a
    few odd ones among them, move it little.
    """
    logs = np.log(values)
    median = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - median)))
    return float(np.exp(median + deviations * spread))


def domain_limit(distances: Scores) -> float:
    """The distance beyond which a photo is not of the product, from those out of fold.

    Half as far again as all but 2 % of the training photos, defects included: a
    badly broken part is still the product. On MVTec bottle the photos lie at 30
    to 72, the limit at some 90, photos of other things from 265 on.
    """
    return 1.5 * float(np.quantile(distances, 0.98))


def quality_limits(qualities: Sequence[Quality]) -> QualityLimits:
    """Limits with a margin around the training photos: a camera drifts a little."""
    sharpness = np.array([quality.sharpness for quality in qualities])
    brightness = np.array([quality.brightness for quality in qualities])
    return QualityLimits(
        min_sharpness=0.4 * float(sharpness.min()),
        min_brightness=0.6 * float(brightness.min()),
        # Half of the way from the brightest photo to a white one.
        max_brightness=min(255.0, (float(brightness.max()) + 255.0) / 2),
    )


def attention_limit(peaks: Scores, is_defective: Flags) -> float:
    """The raw Grad-CAM value to draw fully red, from the peak (N,) of each photo out of fold.

    The peak of a typical defect, unless good parts would then not stay blue:
    nine good parts of ten peak in the lowest third of the scale.
    """
    of_defects = float(np.median(peaks[is_defective]))
    of_good = float(np.quantile(peaks[~is_defective], 0.9))
    return max(of_defects, 3 * of_good, 1e-6)
