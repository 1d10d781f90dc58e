"""Metrics of how samples are ranked, whatever the threshold."""

from __future__ import annotations

import math

import numpy as np


def eer_auc(positive: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Returns the equal error rate and the area under the ROC curve.

    The equal error rate is reached at the threshold where as large a share of the negatives is
    accepted as of the positives is rejected; between thresholds both shares are interpolated.

    Args:
        positive: (N,) bool.
        score: (N,); the larger, the more positive. Equal scores are accepted together.

    Returns:
        Both as fractions, NaN without positives or without negatives.
    """
    if positive.all() or not positive.any():
        return math.nan, math.nan
    order = np.argsort(-score, kind='stable')
    ends = np.append(np.asarray(np.diff(score[order]) != 0), True)
    accepted = np.stack([np.cumsum(positive[order]), np.cumsum(~positive[order])])[:, ends]
    true, false = np.concatenate([np.zeros((2, 1)), accepted / accepted[:, -1:]], 1)
    auc = float((np.diff(false) * (true[1:] + true[:-1]) / 2).sum())
    gap = false - (1 - true)
    k = int(np.argmax(gap >= 0))
    share = gap[k - 1] / (gap[k - 1] - gap[k])
    return float(false[k - 1] + share * (false[k] - false[k - 1])), auc


def average_precision(true: np.ndarray, score: np.ndarray) -> float:
    """Returns sum_n (R_n - R_{n-1}) P_n over the thresholds of one label, NaN without positives.

    R_n and P_n are recall and precision at the n-th highest score; equal scores are accepted
    together, and nothing is interpolated.

    Args:
        true: (N,) bool.
        score: (N,); the larger, the more likely.
    """
    if not true.any():
        return float('nan')
    order = np.argsort(-score, kind='stable')
    ends = np.append(np.diff(score[order]) != 0, True)
    right = np.cumsum(true[order])[ends]
    precision = right / (np.flatnonzero(ends) + 1)
    return float((np.diff(right, prepend=0) / right[-1] * precision).sum())
