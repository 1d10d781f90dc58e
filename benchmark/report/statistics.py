"""Summaries over subsets and over seeds, and Shapley values.

NaN stands for a score that was not measured or is undefined; summaries skip it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from benchmark.errors import UserError
from benchmark.records.metrics import nanmean, tested
from benchmark.records.schema import Outcomes
from benchmark.report import sampling
from benchmark.subsets import LISTED, subset_id, subset_masks


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
    values: np.ndarray,
    sizes: np.ndarray,
    modalities: int,
    higher_is_better: bool,
    sampled: bool = False,
) -> np.ndarray:
    """Appends mean, worst and `by_missing` to the scores of subsets: (..., S) -> (..., S+2+M).

    Args:
        values: (..., S) scores of subsets.
        sizes: (S,) number of modalities in each.
        modalities: M.
        higher_is_better: The metric's direction.
        sampled: Whether the subsets are a sample, whose mean is then the estimate for all subsets.
    """
    lacking = by_missing(values, sizes, modalities)
    mean = sampling.estimate(lacking, modalities) if sampled else nanmean(values)
    summaries = np.stack([mean, worst(values, higher_is_better)], axis=-1)
    return np.concatenate([values, summaries, lacking], axis=-1)


def columns(subsets: Sequence[str], modalities: int) -> dict[str, list[str]]:
    """Returns the ids of the columns of `with_summaries`, each with the subsets that it is of.

    Args:
        subsets: The ids of the S subsets.
        modalities: M.
    """
    lacking = {s: modalities - s.count('+') - 1 for s in subsets}
    return {
        **{subset: [subset] for subset in subsets},
        'mean': list(subsets),
        'worst': list(subsets),
        **{f'missing_{k}': [s for s in subsets if lacking[s] == k] for k in range(modalities)},
    }


def over_seeds(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and standard deviation (ddof=1; NaN for a single seed) over seeds."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def expected(
    scores: Mapping[str, float],
    names: Sequence[str],
    absent: np.ndarray,
    empty: float | None = None,
) -> float:
    """Returns the expected score when each modality is missing with its own probability.

    Modalities are missing independently of each other.

    Args:
        scores: The score of every subset.
        names: The modalities in order.
        absent: (M,) probability of being missing.
        empty: The score without any modality, which is chance. If it is not known, the case that
            all are missing is left out, and the result is NaN if no other can occur.
    """
    weights = probabilities(absent, empty is None)
    found = [scores[subset_id(names, mask)] for mask in subset_masks(len(names))]
    return float(weights @ np.array(found)) + float(np.prod(absent)) * (empty or 0.0)


def probabilities(absent: np.ndarray, given_one: bool) -> np.ndarray:
    """Returns the probability of each subset if modalities are missing independently.

    Args:
        absent: (M,) probability of being missing.
        given_one: Whether the case that all are missing is left out, so that the sum is 1.

    Returns:
        (2^M-1,) in the order of `subset_masks`; NaN where only the case left out can occur.
    """
    weights = np.where(subset_masks(len(absent)), 1 - absent, absent).prod(1)
    if given_one:
        return weights / weights.sum() if weights.any() else np.full_like(weights, np.nan)
    return weights


def possible_masks(absent: np.ndarray) -> np.ndarray:
    """Returns the subsets (P, M) that can occur if modalities are missing with probabilities (M,).

    They are in the order of `subset_masks`. A modality that is never missing is in all of them, one
    that always is missing in none.

    Raises:
        UserError: More than `LISTED` modalities are sometimes there and sometimes not.
    """
    unsure = np.flatnonzero((absent > 0) & (absent < 1))
    if len(unsure) > LISTED:
        raise UserError(
            f'--fail: expected at most {LISTED} modalities that may fail, found {len(unsure)}, of '
            f'which the expected score needs all {2 ** len(unsure):,} subsets'
        )
    never = absent == 0
    chosen = np.zeros((1, len(unsure)), dtype=bool)
    if len(unsure):
        chosen = np.concatenate([chosen, subset_masks(len(unsure))])
    found = np.tile(never, (len(chosen), 1))
    found[:, unsure] = chosen
    found = found[found.any(1)]
    order = sorted(range(len(found)), key=lambda k: (found[k].sum(), (~found[k]).tolist()))
    return found[order]


def possible(names: Sequence[str], absent: np.ndarray) -> list[str]:
    """Returns the subsets that can occur if modalities are missing with these probabilities."""
    return [subset_id(names, mask) for mask in possible_masks(absent)]


def expectations(
    values: np.ndarray,
    subsets: Sequence[str],
    names: Sequence[str],
    absent: np.ndarray,
    empty: float | None,
) -> np.ndarray:
    """Returns `expected` of many scores: (..., S) -> (...), NaN where a subset that counts lacks.

    Args:
        values: (..., S) scores of subsets.
        subsets: The ids of the S subsets.
        names: The modalities in order.
        absent: (M,) probability of being missing.
        empty: As of `expected`.
    """
    masks = possible_masks(absent)
    weights = np.where(masks, 1 - absent, absent).prod(1)
    if empty is None:
        weights = weights / weights.sum() if len(weights) else weights
    start = np.nan if empty is None and not len(weights) else float(np.prod(absent)) * (empty or 0)
    total = np.full(values.shape[:-1], start)
    places = {subset: k for k, subset in enumerate(subsets)}
    for mask, weight in zip(masks, weights.tolist(), strict=True):
        subset = subset_id(names, mask)
        total = total + weight * (values[..., places[subset]] if subset in places else np.nan)
    return total


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % t-interval of the mean over seeds, NaN for fewer than two seeds."""
    if len(values) < 2:
        return math.nan, math.nan
    mean, std = over_seeds(values)
    reach = float(stdtrit(len(values) - 1, 0.975)) * std / math.sqrt(len(values))
    return mean - reach, mean + reach


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
    worth = _worth(scores, names, empty, higher_is_better)
    values = dict.fromkeys(names, 0.0)
    for mask, value in worth.items():
        for m, name in enumerate(names):
            if mask[m]:
                without = _less(mask, m)
                # The share of the orders in which exactly these modalities come before this one.
                weight = 1 / (count * math.comb(count - 1, sum(without)))
                values[name] += weight * (value - worth[without])
    return values


def interactions(
    scores: Mapping[str, float], names: Sequence[str], empty: float, higher_is_better: bool
) -> dict[tuple[str, str], float]:
    """Returns the Shapley interaction index of each pair of modalities (Grabisch, Roubens, 1999).

    It is the mean, over all orders in which modalities may come, of what a pair adds together less
    what its two members add alone. Positive is synergy, negative is redundancy.

    Args:
        scores: The score of every non-empty subset.
        names: The modalities in order.
        empty: The score without any modality, which is chance.
        higher_is_better: The metric's direction.
    """
    count = len(names)
    worth = _worth(scores, names, empty, higher_is_better)
    values = dict.fromkeys(itertools.combinations(names, 2), 0.0)
    for mask, value in worth.items():
        for i, j in itertools.combinations(range(count), 2):
            if mask[i] and mask[j]:
                neither = _less(_less(mask, i), j)
                gain = value - worth[_less(mask, i)] - worth[_less(mask, j)] + worth[neither]
                weight = 1 / ((count - 1) * math.comb(count - 2, sum(neither)))
                values[names[i], names[j]] += weight * gain
    return values


def _worth(
    scores: Mapping[str, float], names: Sequence[str], empty: float, higher_is_better: bool
) -> dict[tuple[bool, ...], float]:
    """Returns mask -> score of its subset, with the sign that makes higher better."""
    sign = 1 if higher_is_better else -1
    masks = subset_masks(len(names)).tolist()
    worth = {tuple(mask): sign * scores[subset_id(names, mask)] for mask in masks}
    return {(False,) * len(names): sign * empty, **worth}


def _less(mask: tuple[bool, ...], m: int) -> tuple[bool, ...]:
    return (*mask[:m], False, *mask[m + 1 :])


def pooled(added: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Adds up the contributions of each cluster: (N, S, C) -> (U, S, C)."""
    pooled = np.zeros((clusters.max() + 1, *added.shape[1:]))
    # `pooled[clusters] += added` would count one sample of each cluster alone.
    np.add.at(pooled, clusters, added)
    return pooled


def majority(outcomes: Outcomes, subsets: Sequence[str]) -> dict[str, float]:
    """Returns the accuracy of always answering the most frequent class, on each tested subset."""
    if 'target' not in outcomes:
        return {}
    each = {s: tested(outcomes, s, 'accuracy') for s in subsets if f'pred/{s}' in outcomes}
    return {
        subset: float(np.bincount(outcomes['target'][there]).max() / there.sum())
        for subset, there in each.items()
        if there.any()
    }
