"""ROC and precision-recall curves of the parts that people decided, and histograms of scores.

Pure numbers; no library that decodes or learns is known to the gateway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Curves:
    roc: Points
    """(share of good parts called defective, share of defective parts found)."""
    auroc: float
    precision_recall: Points
    """(recall, precision) of each threshold, the highest first."""
    average_precision: float


def curves(good: Sequence[float], defective: Sequence[float]) -> Curves:
    """Of every threshold that tells some scores apart; neither may be empty.

    The area under ROC counts ties half; average precision is the sum of precision times the step
    in recall (both as scikit-learn defines them).
    """
    scores = sorted([(score, True) for score in defective] + [(score, False) for score in good])
    roc: Points = [(0.0, 0.0)]
    precision_recall: Points = []
    alarms = found = 0
    auroc = average_precision = 0.0
    for _, tied in groupby(reversed(scores), key=lambda pair: pair[0]):
        defects = [is_defective for _, is_defective in tied]
        found += sum(defects)
        alarms += len(defects) - sum(defects)
        false_alarm_rate, recall = alarms / len(good), found / len(defective)
        precision = found / (found + alarms)
        before = roc[-1]
        auroc += (false_alarm_rate - before[0]) * (recall + before[1]) / 2
        average_precision += (recall - before[1]) * precision
        roc.append((false_alarm_rate, recall))
        precision_recall.append((recall, precision))
    return Curves(roc, auroc, precision_recall, average_precision)


def operating_point(
    good: Sequence[float], defective: Sequence[float], threshold: float
) -> tuple[float, float, float | None]:
    """(false alarm rate, recall, precision) at the threshold; no precision of nothing called."""
    alarms = sum(score >= threshold for score in good)
    found = sum(score >= threshold for score in defective)
    precision = found / (found + alarms) if found + alarms else None
    return alarms / len(good), found / len(defective), precision


def histogram(scores: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    """Counts in equal bins; what lies outside counts in the first or the last one."""
    counts = [0] * bins
    for score in scores:
        counts[min(max(int((score - low) / (high - low) * bins), 0), bins - 1)] += 1
    return counts
