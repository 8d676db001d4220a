"""Thresholds as sliders show them, and back: percent, and widths of the band around the threshold.

A slider that nobody moved stands for the exact value in force, not for what it is rounded to.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from api.web.forms import as_input
from shared.errors import InvalidInput
from shared.manifest import Thresholds

NAMES = ("defect_percent", "below", "above", "anomaly_score", "domain_distance")
_TOP = 1e9


@dataclass(frozen=True)
class Slider:
    name: str
    value: str
    low: float
    high: float
    digits: int
    """After the point, when it is moved."""


def sliders(present: Thresholds, given: Mapping[str, str]) -> dict[str, Slider]:
    """All of them, by name; `given` where somebody has moved them already."""
    values = _values(present)
    highest = {
        "defect_percent": 100.0,
        "below": max(50.0, values["below"]),
        "above": max(50.0, values["above"]),
        "anomaly_score": max(3 * present.anomaly_score, 1.0),
        "domain_distance": 2 * present.domain_distance,
    }
    made = {}
    for name, value in values.items():
        text = given.get(name) or _shown(value)
        low = min(0.0, 2 * value)
        made[name] = Slider(name, text, low, _round_up(highest[name]), _digits(value))
    return made


def proposed(present: Thresholds, given: Mapping[str, str]) -> Thresholds:
    """The thresholds that the sliders stand for. Raises InvalidInput."""
    before = _values(present)
    after = {
        name: value if given.get(name, _shown(value)) == _shown(value) else _number(name, given)
        for name, value in before.items()
    }
    moved = {name for name in before if after[name] != before[name]}
    # Only what was moved is computed: through percent and back the last digit would change.
    threshold, low, high = (
        present.defect_probability,
        present.near_threshold_low,
        present.near_threshold_high,
    )
    if "defect_percent" in moved:
        threshold = after["defect_percent"] / 100
    if moved & {"defect_percent", "below"}:
        low = max(threshold - after["below"] / 100, 0.0)
    if moved & {"defect_percent", "above"}:
        high = min(threshold + after["above"] / 100, 1.0)
    return as_input(
        Thresholds,
        {
            "defect_probability": threshold,
            "near_threshold_low": low,
            "near_threshold_high": high,
            "anomaly_score": after["anomaly_score"],
            "domain_distance": after["domain_distance"],
        },
    )


def _values(thresholds: Thresholds) -> dict[str, float]:
    threshold = thresholds.defect_probability
    return {
        "defect_percent": 100 * threshold,
        "below": 100 * (threshold - thresholds.near_threshold_low),
        "above": 100 * (thresholds.near_threshold_high - threshold),
        "anomaly_score": thresholds.anomaly_score,
        "domain_distance": thresholds.domain_distance,
    }


def _number(name: str, given: Mapping[str, str]) -> float:
    try:
        value = float(given[name])
    except ValueError as error:
        raise InvalidInput(f"{given[name]!r} is not a number.", field=name) from error
    if not math.isfinite(value) or abs(value) > _TOP or (name in {"below", "above"} and value < 0):
        raise InvalidInput(f"{given[name]!r} is out of bounds.", field=name)
    return value


def _shown(value: float) -> str:
    return f"{value:.{_digits(value)}f}"


def _digits(value: float) -> int:
    if abs(value) < 1:
        return 3
    return 2 if abs(value) < 10 else 1


def _round_up(value: float) -> float:
    """To something that reads well at the end of a slider."""
    return float(math.ceil(value)) if value > 3 else math.ceil(10 * value) / 10
