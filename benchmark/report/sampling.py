"""What the scores of a sample of the subsets tell of all subsets (`benchmark.tested`)."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from benchmark.tested import shares


def estimate(lacking: np.ndarray, modalities: int) -> np.ndarray:
    """Returns the stratified estimate of the mean over all subsets (`benchmark.tested`).

    Args:
        lacking: (..., M) means over the tested subsets with 0, 1, ... modalities missing. Those
            that are NaN do not count.
        modalities: M.
    """
    weights = np.where(np.isnan(lacking), 0, shares(modalities)[::-1])
    total = weights.sum(-1)
    mean = (weights * np.nan_to_num(lacking)).sum(-1)
    return np.divide(mean, total, where=total > 0, out=np.full(np.shape(total), np.nan))


def reach(values: np.ndarray, sizes: np.ndarray, modalities: int) -> float:
    """Returns half the 95 % interval of the estimated mean over all subsets.

    With n_k of the N_k subsets of size k tested and the variance s_k^2 of their scores, the
    variance of the estimate is the sum of (N_k / (2^M - 1))^2 (1 - n_k / N_k) s_k^2 / n_k. The
    interval is that of Student's t, with the degrees of freedom of Satterthwaite (1946).

    Args:
        values: (S,) scores of the tested subsets.
        sizes: (S,) number of modalities in each.
        modalities: M.

    Returns:
        NaN where fewer than two subsets of a size were tested that has more.
    """
    variance, spread = 0.0, 0.0
    for size, share in enumerate(shares(modalities).tolist(), 1):
        own, there = values[(sizes == size) & ~np.isnan(values)], math.comb(modalities, size)
        if len(own) >= there:
            continue
        if len(own) < 2:
            return math.nan
        part = share**2 * (1 - len(own) / there) * float(own.var(ddof=1)) / len(own)
        variance, spread = variance + part, spread + part**2 / (len(own) - 1)
    return float(stdtrit(variance**2 / spread, 0.975)) * math.sqrt(variance) if variance else 0.0
