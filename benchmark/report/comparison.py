"""Tests of differences between methods: test samples are resampled, seeds are counted.

All scores are fractions, so that all variances are of fractions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmark.missing import generator
from benchmark.records.metrics import score

LEVEL = 0.05
"""Level of all tests; an interval covers 1 - LEVEL."""

POWER = 0.8
"""Probability with which a planned comparison is to find the difference that it looks for."""

REPLICATES = 2000
"""Draws of the bootstrap, which estimates variances; it is no bound of the p-values."""

CHUNK = 4_000_000
"""Most resampling weights that are held in memory at once."""

MIN_SEEDS = 3
"""Fewest seeds that two rows must share for a difference to be tested."""

MOST_SEEDS = 100
"""Most seeds that `seeds_needed` considers."""


def resample(
    runs: Sequence[np.ndarray], metric: str, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """Bootstraps the test samples, with the same draws for every run.

    Args:
        runs: Per run (N, S, C) contributions of the same N units on S subsets. A unit is a sample,
            or a cluster of samples whose contributions are added up.
        metric: The metric that they contribute to.
        replicates: R.
        seed: Seed of the draws.

    Returns:
        (R, runs, S) scores on each resampled test set.
    """
    samples = len(runs[0])
    rng = generator(seed, 'bootstrap')
    step = max(1, CHUNK // samples)
    parts = []
    for start in range(0, replicates, step):
        rows = min(step, replicates - start)
        draws = rng.integers(samples, size=(rows, samples)) + samples * np.arange(rows)[:, None]
        weights = np.bincount(draws.ravel(), minlength=rows * samples).astype(np.float32)
        weights = weights.reshape(rows, samples)
        totals = [weights @ run.reshape(samples, -1).astype(np.float32) for run in runs]
        shaped = [t.reshape(rows, *run.shape[1:]) for t, run in zip(totals, runs, strict=True)]
        parts.append(np.stack([score(t, metric) for t in shaped], axis=1))
    return np.concatenate(parts)


def covariance(drawn: np.ndarray, units: int) -> np.ndarray:
    """Returns the covariance between runs that the choice of the test samples causes.

    Args:
        drawn: (R, runs) scores on resampled test samples. Draws on which a score is undefined (a
            test set without one of the classes) are left out.
        units: The number of units that were resampled.

    Returns:
        (runs, runs); NaN if a score is undefined on nearly all draws. The bootstrap's covariance
        is too small by (units - 1) / units, which is corrected.
    """
    defined = drawn[~np.isnan(drawn).any(1)]
    if len(defined) < 2 or units < 2:
        return np.full((drawn.shape[1],) * 2, np.nan)
    return np.atleast_2d(np.cov(defined, rowvar=False)) * units / (units - 1)


class Comparison(NamedTuple):
    """A difference a - b over S seeds, its two-sided p-value and its 95 % interval.

    `between` holds the variances of a and b between seeds, as observed; `own` is the part of each
    that the test samples explain; `common` is the variance of the difference that no number of
    seeds can reduce, since all seeds share the test samples. All NaN where nothing can be tested.
    """

    difference: float
    p: float
    low: float
    high: float
    between: tuple[float, float] = (math.nan, math.nan)
    own: tuple[float, float] = (math.nan, math.nan)
    common: float = math.nan


def compare(a: np.ndarray, b: np.ndarray, shared: np.ndarray, units: int) -> Comparison:
    """Compares two methods on the seeds that they share, by Student's t.

    The error of the difference of the two means over S seeds has two sources. One is the choice of
    the test samples, which all runs share: its variance V is that of the bootstrap. The other is
    the training: for each method, the variance B between seeds, less the part W of it that the test
    samples explain (a sample that only some seeds get wrong) and V counts already, floored at 0.
    Together V + sum max(B - W, 0) / S, which is computed as sum B / S + C + sum max(W - B, 0) / S,
    where C = V - sum W / S is common to all seeds. C is floored at 0, too: two methods may err on
    the same samples with the same seed. The degrees of freedom are those of Satterthwaite (1946),
    from S - 1 for each B and units - 1 for the rest.

    Seeds are not paired: seed 3 of one method and seed 3 of another initialise different networks,
    and the scores of such pairs are hardly correlated.

    Args:
        a: (S,) scores of the first method, one per shared seed.
        b: (S,) scores of the second, of the same seeds.
        shared: (2S, 2S) `covariance` of the runs, the first method's before the second's.
        units: The number of units that were resampled.

    Returns:
        The comparison; its p-value is NaN for a single seed, which says nothing about methods.
    """
    count, difference = len(a), float(a.mean() - b.mean())
    if count < 2 or np.isnan(shared).any() or math.isnan(difference):
        return Comparison(difference, math.nan, math.nan, math.nan)
    between = np.array([a.var(ddof=1), b.var(ddof=1)])
    own = np.array([_unshared(shared[:count, :count]), _unshared(shared[count:, count:])])
    sign = np.repeat([1 / count, -1 / count], count)
    common = max(float(sign @ shared @ sign) - own.sum() / count, 0.0)
    sampling = common + np.maximum(own - between, 0).sum() / count
    error, degrees = _error(between, sampling, count, units)
    parts = (tuple(between.tolist()), tuple(own.tolist()), common)
    if error < 1e-12:
        # No sample and no seed contradicts the difference, or there is none.
        return Comparison(difference, float(abs(difference) < 1e-9), difference, difference, *parts)
    p = float(2 * special.stdtr(degrees, -abs(difference) / error))
    half = float(special.stdtrit(degrees, 1 - LEVEL / 2)) * error
    return Comparison(difference, p, difference - half, difference + half, *parts)


def _unshared(covariances: np.ndarray) -> float:
    """Returns the mean variance of one run less the mean covariance of two, of (S, S)."""
    count = len(covariances)
    trace = float(np.trace(covariances))
    return max(trace / count - (float(covariances.sum()) - trace) / (count * (count - 1)), 0.0)


def _error(between: np.ndarray, sampling: float, count: int, units: int) -> tuple[float, float]:
    """Returns the standard error of a difference of two means over seeds, degrees of freedom.

    Args:
        between: (2,) the variance of either method between its seeds.
        sampling: The variance that is added to these over the number of seeds.
        count: The number of seeds.
        units: The number of units in the test set.
    """
    parts = np.array([*between / count, sampling])
    freedom = np.array([count - 1, count - 1, max(units - 1, 1)])
    spread = float((parts**2 / freedom).sum())
    total = float(parts.sum())
    return math.sqrt(total), total**2 / spread if spread else float(freedom.min())


def seeds_needed(found: Comparison, difference: float, units: int) -> int | None:
    """Returns how many seeds of each method would show a difference, with a power of 80 %.

    Args:
        found: A comparison of the two methods, whose variances are taken for the true ones.
        difference: The difference to be shown, as a fraction.
        units: The number of units in the test set.

    Returns:
        At least `MIN_SEEDS`; None if `MOST_SEEDS` would not do, for example because the test set is
        too small for any number of seeds.
    """
    spread = np.maximum(found.between, found.own)  # of one run, by seed and by samples
    for count in range(MIN_SEEDS, MOST_SEEDS + 1):
        error, degrees = _error(spread, found.common, count, units)
        needed = special.stdtrit(degrees, 1 - LEVEL / 2) + special.stdtrit(degrees, POWER)
        if needed * error <= difference:
            return count
    return None


def better(a: np.ndarray, b: np.ndarray, higher_is_better: bool) -> float:
    """Returns the share of the pairs of one run each in which the first is better; a tie is half.

    It estimates the probability that one training of the first method beats one of the second
    (Mann and Whitney, 1947).
    """
    sign = 1 if higher_is_better else -1
    gaps = sign * (a[:, None] - b[None, :])
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Returns p-values with Holm's correction, which bounds the error over all of them."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def p_text(p: float) -> str:
    """Returns a p-value with three digits."""
    return '< 0.001' if p < 0.001 else f'{p:.3f}'


def weights(added: np.ndarray, metric: str) -> np.ndarray:
    """Returns how much each unit weighs in each part that a metric is the mean of, (U, G).

    The parts of ACER are attacks and live samples, those of mIoU the classes that are labelled; the
    other metrics have one part.

    Args:
        added: (U, C) contributions of U units.
        metric: The metric that they contribute to.
    """
    if metric == 'ACER':
        return added.reshape(len(added), 2, 2).sum(2)
    if metric == 'mIoU':
        return added.reshape(len(added), 3, -1)[:, 2]
    return added[:, :1] if metric == 'Dice' else added.sum(1, keepdims=True)
