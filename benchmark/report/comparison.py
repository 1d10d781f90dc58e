"""Tests of differences between methods: test samples are resampled, seeds are counted.

All scores are fractions, so that all variances are of fractions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmark.missing import generator
from benchmark.records.metrics import score

LEVEL = 0.05
"""Level of all tests; an interval covers 1 - LEVEL."""

POWER = 0.8
"""Probability with which a planned comparison is to find the difference that it looks for."""

REPLICATES = 10_000
"""Draws of the bootstrap, which estimates variances; it is no bound of the p-values."""

CHUNK = 4_000_000
"""Most resampling weights that are held in memory at once."""

MIN_SEEDS = 3
"""Fewest seeds that two rows must share for a difference to be tested."""

FLOOR = 2 / 3
"""Least part of what the samples explain that counts as variance by seeds in `standard_error`."""

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
        # One count over all rows at once: the numbers of row k begin at k times `samples`.
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
    """Compares two methods on the seeds that they share, by Student's t of `standard_error`.

    The error of the difference of the two means over S seeds has two sources. One is the choice of
    the test samples, which all runs share: its variance V is that of the bootstrap. The other is
    the training: for each method, the variance B between seeds, less the part W of it that the test
    samples explain (a sample that only some seeds get wrong) and V counts already. Their sum over
    both methods is floored at 0: together V + max(sum B - sum W, 0) / S, which is computed as
    C + max(sum B, sum W) / S, where C = V - sum W / S is common to all seeds. C is floored at 0,
    too: two methods may err on the same samples with the same seed.

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
    error, degrees = map(float, standard_error(between, own, common, count, units))
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


def standard_error(
    between: np.ndarray, own: np.ndarray, common: float, count: int, units: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the standard error of a difference of two means over seeds, degrees of freedom.

    With B, W, C, S as in `compare` and N units, the variance is v = C + max(sum B, sum W) / S. It
    is a sum of two estimates, whose degrees of freedom follow Satterthwaite (1946):

        df = v^2 / (s^2 / (S - 1) + (v - s)^2 / (N - 1)),    s = max(sum B, 2/3 sum W) / S

    The part s of the seeds has S - 1 degrees of freedom for both methods together. Welch (1938)
    gives each method's variance S - 1 of its own, hence up to 2 (S - 1), which is too many where
    one method varies much more than the other, but not by chance on these few seeds; with S - 1
    a test of two normal samples never exceeds its level (Mickey and Brown, 1966). The floor is
    for the same case: a sum of B that is far below that of W says nothing of the variance by
    training. The factor 2/3 was chosen by the simulation in docs/statistics.md.

    Args:
        between: (..., 2) the variance B of either method between its seeds.
        own: (..., 2) the part W that the samples explain.
        common: The variance C.
        count: The number of seeds.
        units: The number of units in the test set.

    Returns:
        (...) each; the degrees of freedom are S - 1 where there is no variance.
    """
    observed, explained = between.sum(-1), own.sum(-1)
    variance = np.maximum(observed, explained) / count + common
    seeds = np.maximum(observed, FLOOR * explained) / count
    spread = seeds**2 / (count - 1) + (variance - seeds) ** 2 / max(units - 1, 1)
    degrees = np.full_like(variance, count - 1)
    np.divide(variance**2, spread, out=degrees, where=spread > 0)
    return np.sqrt(variance), degrees


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
    own, spread = np.array(found.own), np.array(found.between)
    for count in range(MIN_SEEDS, MOST_SEEDS + 1):
        error, degrees = standard_error(spread, own, found.common, count, units)
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
    """Returns a p-value with three digits, or with more that tell on which side of .05 it lies."""
    if p < 0.001:
        return '< 0.001'
    shown = (f'{p:.{digits}f}' for digits in range(3, 17))
    return next((text for text in shown if p == LEVEL or float(text) != LEVEL), f'{p:.3f}')


def weights(added: np.ndarray, metric: str) -> np.ndarray:
    """Returns how much each unit weighs in each part that a metric is the mean of, (U, G).

    The parts of ACER are attacks and live samples, those of mIoU the classes that are labelled,
    those of F1 the labels; the other metrics have one part.

    Args:
        added: (U, C) contributions of U units.
        metric: The metric that they contribute to.
    """
    if metric == 'ACER':
        return added.reshape(len(added), 2, 2).sum(2)
    if metric == 'mIoU':
        return added.reshape(len(added), 3, -1)[:, 2]
    if metric == 'F1':
        right, _, missed = np.moveaxis(added.reshape(len(added), 3, -1), 1, 0)
        return right + missed
    return added[:, :1] if metric in ('Dice', 'MAE') else added.sum(1, keepdims=True)


def too_few(seeds: Collection[int], whole: bool) -> str:
    """Says why fewer than two rows can be compared.

    Args:
        seeds: The numbers of seeds that rows have.
        whole: Whether the predictions of all runs are at hand.
    """
    found = ' to '.join(map(str, dict.fromkeys((min(seeds), max(seeds)))))
    told = f'fewer than two methods have at least {MIN_SEEDS} seeds'
    if not whole:
        told += ' and the predictions of all of them (outcomes.npz)'
    return f'{told} (here: {found} seed{"s" if max(seeds) > 1 else ""} each)'
