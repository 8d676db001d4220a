"""How far a figure may be from the truth, for the photos that there were.

Shares (recall, false alarms, escapes) get the exact binomial interval: the
bootstrap is too narrow for small counts and has no width at 0 of n. What is no
share gets the percentile bootstrap, good and defective photos drawn apart, so
that every resample has as many of each as the folder.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from shared.intervals import LEVEL, TAIL, Interval, exact
from worker.train.judged import Flags, Floats

RESAMPLES = 2000


def upper_bound(part: int, whole: int) -> float:
    """The share that the truth stays below with 95 % confidence (Clopper-Pearson, one-sided)."""
    return float(beta.ppf(LEVEL, part + 1, whole - part)) if part < whole else 1.0


def in_words(part: int, whole: int, *, one: str, many: str, of: str) -> str:
    """A count of errors as a sentence that says what it does not rule out.

    `one` and `many` name the error, `of` what it was counted among.
    """
    named = f"{part} {one if part == 1 else many} in {whole} {of}"
    if whole == 0:
        return f"There are no {of}: nothing can be said of {many}."
    if part == 0:
        return f"{named}: the true rate may still be up to {_percent(upper_bound(part, whole))}."
    low, high = exact(part, whole) or (0.0, 1.0)
    return (
        f"{named} ({_percent(part / whole)}): the true rate may be anything from "
        f"{_percent(low)} to {_percent(high)}."
    )


def auroc_difference(is_defective: Flags, first: Floats, second: Floats) -> tuple[float, float]:
    """How much better the first scores rank than the second, and the standard error of that.

    is_defective (N,); both scores (N,) are of the same photos (DeLong et al. 1988).
    """
    gain = _wins(is_defective, first) - _wins(is_defective, second)  # defective x good
    of_defective, of_good = gain.mean(axis=1), gain.mean(axis=0)
    variance = sum(
        float(part.var(ddof=1)) / len(part) for part in (of_defective, of_good) if len(part) > 1
    )
    return float(gain.mean()), float(np.sqrt(variance))


def _wins(is_defective: Flags, scores: Floats) -> Floats:
    """For each pair whether the defective one scores higher; a tie is half a win."""
    defective, good = scores[is_defective][:, None], scores[~is_defective][None]
    wins: Floats = (defective > good) + 0.5 * (defective == good)
    return wins


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def exact_auroc(good: int, defective: int) -> Interval:
    """The interval of an AUROC of 1, where the bootstrap has no width.

    Every photo put into one pair at most, the pairs are independent and each is
    in the right order with probability AUROC: n of n of them were.
    """
    return float(TAIL ** (1 / min(good, defective))), 1.0


def percentile(figures: Floats) -> Interval:
    """The middle 95 % of a figure (R,) over the resamples."""
    low, high = np.quantile(figures, (TAIL, 1 - TAIL))
    return float(low), float(high)


@dataclass(frozen=True)
class Resamples:
    """How often each photo was drawn, with replacement, within its class."""

    counts: Floats  # (R, N)
    is_defective: Flags  # (N,)

    def auroc(self, scores: Floats) -> Floats:
        """Area under the ROC curve of each resample: scores (N,) to (R,)."""
        good, defective = scores[~self.is_defective], scores[self.is_defective]
        wins = (defective[:, None] > good).astype(np.float64)  # (defective, good)
        wins += 0.5 * (defective[:, None] == good)
        drawn_good = self.counts[:, ~self.is_defective]
        drawn_defective = self.counts[:, self.is_defective]
        won: Floats = ((drawn_defective @ wins) * drawn_good).sum(axis=1)
        return won / wins.size

    def average_precision(self, scores: Floats) -> Floats:
        """Mean precision at each defect found, of each resample: scores (N,) to (R,)."""
        order = np.argsort(-scores, kind="stable")
        # Photos of equal score are called together: the curve has points only between groups.
        is_last = np.append(np.diff(scores[order]) != 0, True)
        called = np.cumsum(self.counts[:, order], axis=1)[:, is_last]
        hits = np.cumsum(self.counts[:, order] * self.is_defective[order], axis=1)[:, is_last]
        precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
        steps = np.diff(hits, axis=1, prepend=0.0)
        area = (steps * precision).sum(axis=1)
        return np.asarray(area / self.is_defective.sum(), np.float64)

    def f1(self, is_called: Flags) -> Floats:
        """F1 of each resample, of what was called defective (N,), to (R,)."""
        hits = self.counts @ (is_called & self.is_defective)
        called = self.counts @ is_called.astype(np.float64)
        score: Floats = 2 * hits / (called + self.is_defective.sum())
        return score


def resample(is_defective: Flags, *, seed: int, resamples: int = RESAMPLES) -> Resamples:
    """Draw photos again and again from the ones that there are: stratified, reproducible."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(is_defective)))
    for places in (np.flatnonzero(~is_defective), np.flatnonzero(is_defective)):
        if len(places):
            drawn = rng.integers(len(places), size=(resamples, len(places)))
            flat = drawn + np.arange(resamples)[:, None] * len(places)
            tally: NDArray[Any] = np.bincount(flat.ravel(), minlength=resamples * len(places))
            counts[:, places] = tally.reshape(resamples, len(places))
    return Resamples(counts, is_defective)
