"""The metrics of tasks in which a sample has any number of K labels.

A label is predicted where its logit is above 0, its probability above one half.
"""

from __future__ import annotations

import numpy as np

from benchmark.records.arithmetic import nanmean, ratio
from benchmark.records.ranking import average_precision

METRIC = 'F1'
"""The metric of the tables: the mean over labels of F1."""
DIRECTIONS = dict.fromkeys(('F1', 'micro_F1', 'mAP'), True)
"""The metrics -> whether higher values are better."""


def counts(target: np.ndarray, logit: np.ndarray) -> np.ndarray:
    """Returns labels rightly predicted, wrongly predicted and missed, (N, 3, K) of (N, K)."""
    true, found = target > 0, logit > 0
    return np.stack([true & found, ~true & found, true & ~found], 1)


def f1(summed: np.ndarray) -> np.ndarray:
    """Returns F1 of each label, of sums (..., 3, K); NaN where it is neither true nor predicted."""
    right, wrong, missed = np.moveaxis(summed, -2, 0)
    return ratio(2 * right, 2 * right + wrong + missed)


def of_labels(target: np.ndarray, logit: np.ndarray) -> dict[str, float]:
    """Returns every metric of labels (N, K) and their logits (N, K)."""
    summed = counts(target, logit).sum(0)
    each = [average_precision(target[:, k] > 0, logit[:, k]) for k in range(target.shape[1])]
    found = {'F1': nanmean(f1(summed)), 'micro_F1': f1(summed.sum(1, keepdims=True))[0]}
    return {name: float(x) for name, x in {**found, 'mAP': nanmean(np.array(each))}.items()}


def shares(logit: np.ndarray) -> np.ndarray:
    """Returns the share of each label among all predictions (K,), 0 where nothing is predicted."""
    found = (logit > 0).sum(0)
    return np.nan_to_num(ratio(found, found.sum()))
