"""Figures of a measurement: percentiles, bands, ratios with intervals."""

import pytest

from moonshine_tune.core.statistics import percentile
from moonshine_tune.metrics.latency import bands_of, bootstrap_ratio, paired_ratios


def test_percentiles_lie_between_neighbors() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([1.0, 2.0], 0.5) == 1.5
    assert percentile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert percentile([7.0], 0.95) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_bands_hold_every_clip_once() -> None:
    lengths = [0.5, 2.0, 4.9, 5.0, 30.0, 700.0]
    calls = [[0.1 * (row + 1), 0.2 * (row + 1)] for row in range(len(lengths))]
    bands = bands_of(lengths, calls)
    assert [(band["from_s"], band["clips"]) for band in bands] == [(0, 1), (2, 2), (5, 1), (20, 2)]
    assert [band["to_s"] for band in bands] == [2, 5, 10, None]
    assert bands[0]["rtf"] == pytest.approx((0.1 + 0.2) / (2 * 0.5))
    assert bands[0]["latency_ms"] == {"median": 150.0, "p95": 195.0, "max": 200.0}


def test_twice_as_slow_is_a_ratio_of_two_in_spite_of_one_disturbed_call() -> None:
    base = [[0.10 + 0.01 * row, 0.10 + 0.01 * row, 0.10 + 0.01 * row] for row in range(20)]
    slow = [[2 * seconds for seconds in calls] for calls in base]
    slow[7][1] = 9.0
    ratios = paired_ratios(slow, base)
    assert ratios["latency"].ratio == pytest.approx(2.0)
    assert ratios["median"].ratio == pytest.approx(2.0)
    assert ratios["p95"].ratio == pytest.approx(2.0)
    low, high = ratios["latency"].ci95 or (0, 0)
    assert low == pytest.approx(2.0) and high == pytest.approx(2.0)


def test_noise_widens_the_interval_around_one() -> None:
    noise = [0.8, 1.25, 0.9, 1.11, 1.0, 0.95, 1.05, 1.3, 0.77, 1.0]
    ratios = paired_ratios([[0.2 * factor] for factor in noise], [[0.2]] * len(noise))
    low, high = ratios["latency"].ci95 or (0, 0)
    assert low < 1 < high and high - low > 0.05


def test_one_pair_has_no_interval_and_more_are_needed_on_both_sides() -> None:
    assert bootstrap_ratio([(3.0, 2.0)], lambda pairs: pairs[0][0] / pairs[0][1]).ci95 is None
    with pytest.raises(ValueError, match="zip"):
        paired_ratios([[0.1], [0.2]], [[0.1]])
