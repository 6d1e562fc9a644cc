"""Statistics of runs against closed forms and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mbrl_wrappers.zoo.analysis.statistics import (
    bootstrap_interval,
    interquartile_mean,
    mean_interval,
    performance_profile,
    profile_interval,
)


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([5.0], 5.0),
        ([1, 2, 3], 2.0),  # a quarter of three is rounded down to none
        ([8, 1, 7, 2, 6, 3, 5, 4], (3 + 4 + 5 + 6) / 4),
        ([0, 0, 10, 1000], 5.0),
        ([-1e9, 1, 2, 3, 1e9], 2.0),
        ([[1, 2], [3, 400]], 2.5),
    ],
)
def test_interquartile_mean_cuts_a_quarter_at_either_end(scores, mean):
    assert interquartile_mean(scores) == mean


def test_interquartile_mean_of_a_normal_sample_is_its_mean_to_within_its_error():
    scores = np.random.default_rng(0).normal(3.0, 1.0, 100_000)
    assert interquartile_mean(scores) == pytest.approx(3.0, abs=0.02)


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution():
    scores = np.random.default_rng(0).normal(0.0, 1.0, 400)
    low, high = bootstrap_interval([scores], lambda values: float(values.mean()), resamples=4000)
    half = 1.96 * scores.std() / 20
    assert low == pytest.approx(scores.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(scores.mean() + half, abs=0.1 * half)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for number in range(100):
        low, high = bootstrap_interval([rng.normal(1.0, 2.0, 50)], np.mean, confidence=0.9, resamples=200, seed=number)
        hits += low <= 1.0 <= high
    assert 80 <= hits <= 97  # 90 expected, and a percentile bootstrap of 50 is a little narrow


def test_runs_that_differ_widen_the_interval():
    """Two runs of ten equal episodes each: only the draw of runs varies, so all of one run can be drawn."""
    runs = [[0.0] * 10, [1.0] * 10]
    assert bootstrap_interval(runs) == (0.0, 1.0)
    assert bootstrap_interval([[0.0] * 10]) == (0.0, 0.0)


def test_draws_follow_the_seed():
    runs = [[1.0, 2.0, 5.0], [3.0, 4.0]]
    assert bootstrap_interval(runs, seed=1) == bootstrap_interval(runs, seed=1)
    assert bootstrap_interval(runs, np.mean, seed=1) != bootstrap_interval(runs, np.mean, resamples=100, seed=2)


def test_the_interval_of_the_mean_curve_is_taken_point_by_point():
    curves = np.array([[0.0, 5.0], [0.0, 7.0], [0.0, 9.0]])
    low, high = mean_interval(curves)
    assert low[0] == high[0] == 0.0
    assert 5.0 <= low[1] < 7.0 < high[1] <= 9.0


def test_the_profile_is_the_share_above_each_threshold():
    thresholds = np.array([-1.0, 0.0, 1.0, 2.0, 3.0])
    np.testing.assert_array_equal(performance_profile([[0, 1, 2, 3]], thresholds), [1, 0.75, 0.5, 0.25, 0])
    # Runs count the same, however many episodes they have.
    np.testing.assert_array_equal(performance_profile([[0], [2, 2, 2]], np.array([1.0])), [0.5])


def test_profile_and_interval_fall_from_one_to_zero():
    rng = np.random.default_rng(0)
    runs = [rng.normal(size=20), rng.normal(1.0, size=30)]
    thresholds = np.linspace(-10, 10, 101)
    profile = performance_profile(runs, thresholds)
    low, high = profile_interval(runs, thresholds, resamples=300)
    for curve in (profile, low, high):
        assert curve[0] == 1 and curve[-1] == 0 and (np.diff(curve) <= 0).all()
    assert (low <= profile).all() and (profile <= high).all() and (low < high).any()


def test_what_can_not_be_averaged_is_refused():
    with pytest.raises(ValueError, match="scores must hold at least one number"):
        interquartile_mean([])
    with pytest.raises(ValueError, match="runs must hold at least one score each"):
        bootstrap_interval([[1.0], []])
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 95"):
        bootstrap_interval([[1.0]], confidence=95)
