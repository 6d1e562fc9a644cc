"""Statistics of a handful of training runs (Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice").

The scores of a run are the returns of its evaluation episodes. Deviation: the paper resamples runs within each of many
tasks; here there is one task, a run has many scores, and a resample draws runs, then scores within each drawn run. The
interval of a single run therefore tells the uncertainty of its own score, and nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000

Scores = Sequence[Sequence[float] | np.ndarray]


def interquartile_mean(scores: np.ndarray | Sequence[float]) -> float:
    """Return the mean of the middle half: a quarter of the values, rounded down, is cut off at either end."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=None)
    if len(ordered) == 0:
        raise ValueError(f"scores must hold at least one number, got {scores!r}")
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def bootstrap_interval(
    runs: Scores,
    statistic: Callable[[np.ndarray], float] = interquartile_mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap's interval of a statistic of all scores.

    Args:
        runs: the scores of each run.
        statistic: a function of the scores of all runs together.
        confidence: share of the resamples inside the interval.
        resamples: number of resamples.
        seed: of the draws.
    """
    values = [statistic(np.concatenate(drawn)) for drawn in _resampled(runs, resamples, seed)]
    low, high = np.quantile(values, _tails(confidence))
    return float(low), float(high)


def mean_interval(
    curves: np.ndarray, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Return the percentile bootstrap's interval of the mean over runs, point by point.

    Args:
        curves: ``[runs, points]``.
        confidence: share of the resamples inside the interval.
        resamples: number of resamples.
        seed: of the draws.

    Returns:
        ``[2, points]``: low and high.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(curves), size=(resamples, len(curves)))
    return np.quantile(curves[drawn].mean(axis=1), _tails(confidence), axis=0)


def performance_profile(runs: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of scores above each threshold, every run counting the same (section 4.2 of the paper)."""
    shares = [np.greater.outer(np.asarray(scores, dtype=np.float64), thresholds).mean(axis=0) for scores in runs]
    return np.mean(shares, axis=0)


def profile_interval(
    runs: Scores,
    thresholds: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Return the percentile bootstrap's interval of :func:`performance_profile`, ``[2, thresholds]``."""
    profiles = [performance_profile(drawn, thresholds) for drawn in _resampled(runs, resamples, seed)]
    return np.quantile(profiles, _tails(confidence), axis=0)


def _resampled(runs: Scores, resamples: int, seed: int) -> list[list[np.ndarray]]:
    """Draw runs, and scores of each run drawn, with replacement."""
    scores = [np.asarray(run, dtype=np.float64) for run in runs]
    if not scores or not all(len(run) for run in scores):
        raise ValueError(f"runs must hold at least one score each, got {runs!r}")
    rng = np.random.default_rng(seed)
    return [
        [rng.choice(scores[run], len(scores[run])) for run in rng.integers(len(scores), size=len(scores))]
        for _ in range(resamples)
    ]


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    return (1 - confidence) / 2, (1 + confidence) / 2
