"""The metrics of regression, and those by which papers count sentiments as classes."""

from __future__ import annotations

import numpy as np

from benchmark.records.arithmetic import nanmean, ratio

METRIC = 'MAE'
"""The metric of the tables: the mean absolute error."""
DIRECTIONS = {
    **dict.fromkeys(('MAE', 'RMSE'), False),
    **dict.fromkeys(('R2', 'Pearson', 'Acc7'), True),
    **dict.fromkeys(('Acc2_has0', 'F1_has0', 'Acc2_non0', 'F1_non0'), True),
}
"""The metrics -> whether higher values are better."""
ERRORS = ('MAE', 'RMSE')
"""Metrics in the units of the target; of several values, means over these, each in its own."""
UNBOUNDED = (*ERRORS, 'R2', 'Pearson')
"""Metrics that need not be fractions from 0 to 1."""


def of_values(target: np.ndarray, value: np.ndarray, sentiment: bool = False) -> dict[str, float]:
    """Returns every metric of targets (N, D) and predicted values (N, D), each a mean over D.

    R2 is 1 - sum (y - p)^2 / sum (y - mean y)^2 and Pearson the correlation of y and p; both are
    NaN where the targets do not vary, Pearson also where the predictions do not.

    Args:
        target: The targets.
        value: The predictions.
        sentiment: Whether they are sentiments from -3 to 3 (`of_sentiments`).
    """
    y, p = target.astype(np.float64), value.astype(np.float64)
    error, varied, told = p - y, y - y.mean(0), p - p.mean(0)
    found = {
        'MAE': np.abs(error).mean(0).mean(),
        'RMSE': np.sqrt((error**2).mean(0)).mean(),
        'R2': nanmean(1 - ratio((error**2).sum(0), (varied**2).sum(0))),
        'Pearson': nanmean(
            ratio((varied * told).sum(0), np.sqrt((varied**2).sum(0) * (told**2).sum(0)))
        ),
    }
    extra = of_sentiments(y[:, 0], p[:, 0]) if sentiment else {}
    return {**{name: float(x) for name, x in found.items()}, **extra}


def of_sentiments(y: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Returns the metrics of the papers on CMU-MOSI and CMU-MOSEI, of sentiments (N,).

    Acc7 compares both values after clipping to [-3, 3] and rounding to whole numbers, halves to the
    even one. `has0` is negative against non-negative, over all samples, as in Zadeh et al. (2018);
    `non0` is negative against positive, over the samples whose sentiment is not 0, as in Tsai et
    al. (MulT, ACL 2019). Both F1 are means over the two classes, weighted by their numbers.
    """
    seven = [np.round(np.clip(x, -3, 3)) for x in (y, p)]
    found = {'Acc7': float((seven[0] == seven[1]).mean())}
    some = y != 0
    for name, true, told in (('has0', y >= 0, p >= 0), ('non0', y[some] > 0, p[some] > 0)):
        found[f'Acc2_{name}'] = float((true == told).mean()) if len(true) else float('nan')
        found[f'F1_{name}'] = _weighted_f1(true, told)
    return found


def _weighted_f1(true: np.ndarray, told: np.ndarray) -> float:
    if not len(true):
        return float('nan')
    score = 0.0
    for positive in (False, True):
        right = ((true == positive) & (told == positive)).sum()
        both = (true == positive).sum() + (told == positive).sum()
        score += (true == positive).mean() * (2 * right / both if both else 0.0)
    return float(score)
