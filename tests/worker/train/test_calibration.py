import math

import numpy as np
import pytest
from scipy.stats import norm

from shared.errors import InvalidInput
from worker.inspect.preprocess import Quality
from worker.train.calibration import (
    Policy,
    attention_limit,
    domain_limit,
    fit_temperature,
    near_band,
    probabilities,
    quality_limits,
    upper_limit,
)


def flags(text):
    return np.array([character == "x" for character in text])


def threshold(policy, scores, defective):
    return Policy(policy).threshold(np.array(scores), flags(defective))


def test_the_best_threshold_lies_halfway_between_the_classes_where_they_part():
    assert threshold("best-f1", [0.1, 0.2, 0.6, 0.9], "..xx") == pytest.approx(0.4)


def calibrated(count=4000, seed=0):
    """Probabilities that are as sure as they are right, a sixth of them of defects."""
    rng = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-rng.normal(-3, 2.5, count)))
    return scores, rng.random(count) < scores


def test_the_best_threshold_is_half_of_the_f1_that_it_reaches():
    # As it has to be where probabilities are right (Lipton et al. 2014).
    scores, is_defective = calibrated()
    best = Policy("best-f1").threshold(scores, is_defective)
    found = scores >= best
    f1 = 2 * (found & is_defective).sum() / (found.sum() + is_defective.sum())
    assert best == pytest.approx(f1 / 2, abs=0.03)


def test_few_photos_say_more_by_their_curve_than_by_who_happened_to_be_near():
    def counted(scores, is_defective):
        def f1(limit):
            found = scores >= limit
            return 2 * (found & is_defective).sum() / (found.sum() + is_defective.sum())

        return max(scores, key=f1)

    draws = [calibrated(count=200, seed=seed) for seed in range(40)]
    spread, by_counting = (
        np.std([choose(*draw) for draw in draws])
        for choose in (Policy("best-f1").threshold, counted)
    )
    assert spread < 0.7 * by_counting


def test_a_wanted_recall_is_reached_with_the_fewest_false_alarms():
    scores = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    defective = ".x.x.x.x"
    assert threshold("recall=1", scores, defective) == pytest.approx(0.15)
    assert threshold("recall=0.75", scores, defective) == pytest.approx(0.35)
    assert threshold("recall=0.74", scores, defective) == pytest.approx(0.35)
    assert threshold("recall=0.5", scores, defective) == pytest.approx(0.55)


def test_costs_decide_between_an_escape_and_false_alarms():
    # The lowest defect lies under two good parts: finding it costs two false alarms.
    scores = [0.1, 0.3, 0.4, 0.5, 0.9]
    assert threshold("cost=3:1", scores, ".x..x") == pytest.approx(0.2)
    assert threshold("cost=1.5:1", scores, ".x..x") == pytest.approx(0.7)
    # Of equally cheap ones the lowest.
    assert threshold("cost=2:1", scores, ".x..x") == pytest.approx(0.2)


def test_a_score_that_is_worth_less_moves_the_threshold_less():
    scores, defective = np.array([0.1, 0.2, 0.4, 0.6, 0.7]), flags(".x..x")
    # The low defect is worth so little that finding it is not worth two false alarms.
    worth = np.array([1, 0.01, 1, 1, 1])
    assert Policy("best-f1").threshold(scores, defective, worth) == pytest.approx(0.65)
    assert Policy("recall=0.9").threshold(scores, defective, worth) == pytest.approx(0.65)
    assert Policy("cost=2.5:1").threshold(scores, defective, worth) == pytest.approx(0.65)
    assert Policy("cost=2.5:1").threshold(scores, defective) == pytest.approx(0.15)


def test_the_lowest_threshold_lies_clearly_below_the_lowest_score():
    assert threshold("recall=1", [0.2, 0.5], "x.") == pytest.approx(0.1)


@pytest.mark.parametrize(
    "text", ["", "f1", "recall", "recall=0", "recall=1.1", "recall=x", "cost=20", "cost=0:1",
             "cost=1:-1", "cost=a:b", "cost=inf:1", "best-f1=2"]
)  # fmt: skip
def test_what_is_no_policy_is_refused_with_those_that_there_are(text):
    with pytest.raises(InvalidInput, match=r"best-f1.*recall=.*cost="):
        Policy(text)


def test_the_temperature_makes_the_probability_as_sure_as_it_is_right():
    # Margin 4 in both directions, right in 3 of 4 cases: sigmoid(4 / t) = 0.75, t = 4 / ln 3.
    margins = np.array([4.0, 4.0, 4.0, -4.0, -4.0, -4.0, -4.0, 4.0])
    temperature = fit_temperature(margins, flags("xxxx...."))
    assert temperature == pytest.approx(4 / math.log(3), rel=0.01)
    assert probabilities(np.array([4.0]), temperature)[0] == pytest.approx(0.75, abs=0.005)


def test_good_and_defective_weigh_the_same_however_many_there_are():
    margins = np.array([4.0, -4.0] + [-4.0] * 3 + [4.0])
    # One of two defects right, three of four good parts right: mean 0.625.
    temperature = fit_temperature(margins, flags("xx...."))
    assert probabilities(np.array([4.0]), temperature)[0] == pytest.approx(0.625, abs=0.005)


def test_the_band_reaches_just_beyond_the_worst_out_of_fold_error():
    scores = np.array([0.01] * 40 + [0.9, 0.4])
    low, high = near_band(scores, flags("." * 40 + "xx"), 0.5)
    # Log-odds of 0.4 are as far from those of 0.5 as those of 0.6.
    assert low == pytest.approx(0.4, abs=1e-3)
    assert low < 0.4
    assert high == pytest.approx(0.6, abs=1e-3)


def test_the_band_holds_no_more_good_parts_than_allowed():
    # Two defects look like good parts; reaching them would take in all forty.
    scores = np.concatenate([np.linspace(0.02, 0.41, 40), [0.01, 0.01]])
    defective = flags("." * 40 + "xx")
    low, high = near_band(scores, defective, 0.5, max_good_share=0.05)
    in_band = (scores >= low) & (scores < high)
    assert in_band[~defective].sum() == 2


def test_without_errors_the_band_is_empty():
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    low, high = near_band(scores, flags("..xx"), 0.5)
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)


def test_a_limit_is_the_median_times_the_spread_of_logarithms():
    # Logs -2000 to 2000 in steps: median 0, absolute deviations with median 1.
    values = np.exp(np.linspace(-2.0, 2.0, 4001))
    limit = upper_limit(values, deviations=2.0, parts=4001)
    assert math.log(limit) == pytest.approx(2 * 1.4826, rel=0.002)


@pytest.mark.parametrize("count", [15, 20, 50, 200])
def test_a_limit_from_few_values_lets_as_few_through_as_one_from_many(count):
    samples = np.exp(np.random.default_rng(0).normal(size=(3000, count)))
    limits = np.array([upper_limit(values, deviations=2.0, parts=count) for values in samples])
    passing = norm.sf(np.log(limits)).mean()
    assert passing == pytest.approx(norm.sf(2.0), rel=0.15)  # 2.3 %


def test_a_photo_without_any_anomaly_does_not_spoil_the_limit():
    assert math.isfinite(upper_limit(np.array([-0.5, 0.0, 2.0, 2.5, 3.0]), deviations=2.0, parts=5))


def test_one_odd_photo_hardly_moves_a_limit():
    values = np.exp(np.arange(5.0))
    odd = values.copy()
    odd[-1] = 1e9
    limits = [upper_limit(some, deviations=2.0, parts=5) for some in (odd, values)]
    assert limits[0] == limits[1]


def test_four_photos_of_each_part_tell_no_more_than_one():
    once = np.exp(np.random.default_rng(0).normal(size=10))
    limits = [upper_limit(some, deviations=2.0, parts=10) for some in (once, np.repeat(once, 4))]
    assert limits[0] == pytest.approx(limits[1])


def test_the_domain_reaches_half_as_far_again_as_nearly_all_training_photos():
    # The 98th of 100 equal steps from 1 to 51 is 50.
    assert domain_limit(np.linspace(1.0, 51.0, 101)) == pytest.approx(75.0)


def test_a_distance_reaches_into_the_domain_by_as_many_photos_as_it_counts():
    distances, counts = np.array([10.0, 20.0, 30.0]), np.array([96.0, 3.0, 1.0])
    assert domain_limit(distances, counts) == pytest.approx(30.0)


def test_quality_limits_leave_room_around_the_training_photos():
    limits = quality_limits([Quality(50.0, 100.0, 900), Quality(80.0, 205.0, 700)])
    assert limits.min_sharpness == pytest.approx(20.0)  # 0.4 x 50
    assert limits.min_brightness == pytest.approx(60.0)  # 0.6 x 100
    assert limits.max_brightness == pytest.approx(230.0)  # halfway from 205 to 255
    assert limits.min_side == 192  # three quarters of what the models see


def test_a_product_trained_on_small_photos_is_judged_on_small_photos():
    limits = quality_limits([Quality(50.0, 100.0, 160), Quality(80.0, 205.0, 900)])
    assert limits.min_side == 120


def test_the_scale_ends_at_a_typical_defect():
    peaks = np.array([0.1] * 10 + [2.0, 3.0, 9.0])
    assert attention_limit(peaks, flags("." * 10 + "xxx")) == pytest.approx(3.0)


def test_the_scale_is_wider_where_good_parts_would_otherwise_glow():
    peaks = np.array([2.0] * 10 + [2.5, 3.0, 3.5])
    assert attention_limit(peaks, flags("." * 10 + "xxx")) == pytest.approx(6.0)
