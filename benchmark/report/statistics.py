"""Summaries over subsets, paired tests, Shapley values.

NaN stands for a score that was not measured or is undefined; summaries skip it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from benchmark.missing import generator, subset_id, subset_masks
from benchmark.records.metrics import contributions, nanmean, score
from benchmark.records.schema import Outcomes

REPLICATES = 2000
"""Draws of the bootstrap. The smallest p-value is 1 / (1 + draws)."""

CHUNK = 4_000_000
"""Most resampling weights that are held in memory at once."""


def worst(values: np.ndarray, higher_is_better: bool) -> np.ndarray:
    """Returns the worst value over the last axis, skipping NaN."""
    return (np.fmin if higher_is_better else np.fmax).reduce(values, axis=-1)


def by_missing(values: np.ndarray, sizes: np.ndarray, modalities: int) -> np.ndarray:
    """Returns the mean over the subsets with 0, 1, ... modalities missing.

    Args:
        values: (..., S) scores of subsets.
        sizes: (S,) number of modalities in each.
        modalities: M.

    Returns:
        (..., M), most complete first; NaN where no such subset was tested.
    """
    by_size = [nanmean(values[..., sizes == size]) for size in range(modalities, 0, -1)]
    return np.stack(by_size, axis=-1)


def with_summaries(
    values: np.ndarray, sizes: np.ndarray, modalities: int, higher_is_better: bool
) -> np.ndarray:
    """Appends mean, worst and `by_missing` to the scores of subsets: (..., S) -> (..., S+2+M)."""
    summaries = np.stack([nanmean(values), worst(values, higher_is_better)], axis=-1)
    return np.concatenate([values, summaries, by_missing(values, sizes, modalities)], axis=-1)


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and standard deviation (ddof=1; NaN for a single seed) over seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def expected(scores: Mapping[str, float], names: Sequence[str], absent: np.ndarray) -> float:
    """Returns the expected score when each modality is missing with its own probability.

    Args:
        scores: The score of every subset.
        names: The modalities in order.
        absent: (M,) probability of being missing. The case that all are missing is left out.
    """
    masks = subset_masks(len(names))
    weights = np.where(masks, 1 - absent, absent).prod(1)
    values = np.array([scores[subset_id(names, mask)] for mask in masks])
    return float(weights @ values / weights.sum())


def gap_closed(value: float, ceiling: float, chance: float) -> float:
    """Returns (value - chance) / (ceiling - chance), NaN if ceiling and chance are equal."""
    return (value - chance) / (ceiling - chance) if ceiling != chance else math.nan


def shapley(
    scores: Mapping[str, float], names: Sequence[str], empty: float, higher_is_better: bool
) -> dict[str, float]:
    """Returns each modality's Shapley value: its share of the gain of all modalities over none.

    Args:
        scores: The score of every non-empty subset.
        names: The modalities in order.
        empty: The score without any modality, which is chance.
        higher_is_better: The metric's direction; the value of a modality that helps is positive.
    """
    count = len(names)
    sign = 1 if higher_is_better else -1
    worth = {tuple(mask): scores[subset_id(names, mask)] for mask in subset_masks(count).tolist()}
    worth[(False,) * count] = empty
    values = dict.fromkeys(names, 0.0)
    for mask, value in worth.items():
        for m, name in enumerate(names):
            if mask[m]:
                without = (*mask[:m], False, *mask[m + 1 :])
                weight = 1 / (count * math.comb(count - 1, sum(without)))
                values[name] += sign * weight * (value - worth[without])
    return values


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Returns p-values with Holm's correction, which bounds the error over all of them."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


class Comparison(NamedTuple):
    """A difference a - b, its two-sided p-value and its 95 % interval."""

    difference: float
    p: float
    low: float
    high: float


def resample(
    runs: Sequence[np.ndarray], metric: str, replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """Bootstraps the test samples, with the same draws for every run.

    Args:
        runs: Per run (N, S, C) contributions of the same N samples on S subsets.
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


def compare(a: np.ndarray, b: np.ndarray, drawn_a: np.ndarray, drawn_b: np.ndarray) -> Comparison:
    """Compares two methods on their shared seeds.

    The error of the difference has two sources. One is the choice of the test samples: they are
    resampled, with the same draws for all seeds. The other is the training: the variance between S
    seeds enters as Student's t with Welch's degrees of freedom. Resampling the seeds, too, would
    not do, since two or three seeds often agree by chance. The variance between seeds holds some of
    the error of the test samples, which counts twice; the test is conservative by this much. With
    one seed only the test samples vary, so that two trained networks are compared, not the methods.

    Args:
        a: (S,) scores of the first method, one per shared seed.
        b: (S,) scores of the second.
        drawn_a: (R, S) scores of the first on resampled test samples.
        drawn_b: (R, S) scores of the second.
    """
    centre = float(a.mean() - b.mean())
    drawn = drawn_a.mean(1) - drawn_b.mean(1)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn) or math.isnan(centre):
        return Comparison(centre, math.nan, math.nan, math.nan)
    drawn = drawn + _seed_noise(a, b, len(drawn))
    # Rounding must not decide whether a draw is as extreme as the observed difference.
    extreme = (np.abs(drawn - centre) >= abs(centre) - 1e-9).sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Comparison(centre, float((1 + extreme) / (1 + len(drawn))), float(low), float(high))


def _seed_noise(a: np.ndarray, b: np.ndarray, count: int) -> np.ndarray:
    """Draws `count` errors of the difference of two means over seeds (Welch, 1947)."""
    freedom = len(a) - 1
    if not freedom:
        return np.zeros(count)
    squares = np.array([a.var(ddof=1), b.var(ddof=1)]) / len(a)
    if not squares.any():
        return np.zeros(count)
    degrees = freedom * squares.sum() ** 2 / (squares**2).sum()
    return np.sqrt(squares.sum()) * generator(0, 'seeds').standard_t(degrees, count)


def paired_bootstrap(
    a: Mapping[int, Outcomes],
    b: Mapping[int, Outcomes],
    subset: str,
    metric: str,
    live: int = 1,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Compares two methods' outcomes (seed -> outcomes) on one subset, over their shared seeds."""
    shared = sorted(a.keys() & b.keys())
    runs = [contributions(o[k], subset, metric, live)[:, None] for o in (a, b) for k in shared]
    point = np.array([score(run.sum(0)[0], metric) for run in runs])
    drawn = resample(runs, metric, replicates, seed)[..., 0]
    n = len(shared)
    return compare(point[:n], point[n:], drawn[:, :n], drawn[:, n:])
