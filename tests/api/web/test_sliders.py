"""From thresholds to sliders and back."""

import pytest

from api.web import sliders
from shared.errors import InvalidInput
from shared.manifest import Thresholds

PRESENT = Thresholds(
    defect_probability=0.5673718873015952,
    near_threshold_low=0.45220642174395465,
    near_threshold_high=0.6756896025317343,
    anomaly_score=5.032046001890807,
    domain_distance=75.09860092163089,
)


def test_sliders_that_nobody_moved_are_the_exact_thresholds():
    shown = {name: one.value for name, one in sliders.sliders(PRESENT, {}).items()}

    assert shown == {
        "defect_percent": "56.7",
        "below": "11.5",
        "above": "10.8",
        "anomaly_score": "5.03",
        "domain_distance": "75.1",
    }
    assert sliders.proposed(PRESENT, shown) == PRESENT
    assert sliders.proposed(PRESENT, {}) == PRESENT


def test_the_band_moves_with_the_threshold_and_ends_at_0_and_1():
    moved = sliders.proposed(PRESENT, {"defect_percent": "40"})
    assert moved.defect_probability == 0.4
    assert moved.near_threshold_low == pytest.approx(0.4 - (0.56737188730 - 0.45220642174))
    assert moved.near_threshold_high == pytest.approx(0.4 + (0.67568960253 - 0.56737188730))

    ends = sliders.proposed(PRESENT, {"below": "90", "above": "90"})
    assert (ends.near_threshold_low, ends.near_threshold_high) == (0.0, 1.0)
    assert ends.defect_probability == PRESENT.defect_probability


def test_one_slider_changes_nothing_else():
    moved = sliders.proposed(PRESENT, {"anomaly_score": "6.5"})

    assert moved == PRESENT.model_copy(update={"anomaly_score": 6.5})
    wider = sliders.proposed(PRESENT, {"below": "20"})
    assert wider.near_threshold_high == PRESENT.near_threshold_high


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("defect_percent", "101"),
        ("defect_percent", "many"),
        ("below", "-1"),
        ("anomaly_score", "nan"),
        ("anomaly_score", "1e400"),
        ("domain_distance", "0"),
    ],
)
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(InvalidInput):
        sliders.proposed(PRESENT, {name: value})
