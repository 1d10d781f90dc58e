"""Metrics as pure functions of counts that add up over samples, so that samples can be resampled.

Values are fractions; NaN stands for what was not tested or is undefined.
"""

from __future__ import annotations

import math

import numpy as np

from benchmark.errors import unknown
from benchmark.records.schema import Outcomes

HIGHER_IS_BETTER = {
    **dict.fromkeys(('ACER', 'APCER', 'BPCER', 'EER'), False),
    **dict.fromkeys(('accuracy', 'AUC', 'UAR', 'F1'), True),
    **dict.fromkeys(('mIoU', 'pixel_accuracy', 'class_accuracy', 'Dice'), True),
}
"""Every metric that may be selected by or shown, with its direction; `Dice_<region>` as Dice."""


def higher_is_better(metric: str) -> bool:
    """Returns a metric's direction.

    Raises:
        UserError: It is not known; a direction is never guessed.
    """
    name = 'Dice' if metric.startswith('Dice_') else metric
    if name not in HIGHER_IS_BETTER:
        raise unknown('metric', metric, HIGHER_IS_BETTER)
    return HIGHER_IS_BETTER[name]


def confusion(target: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (target, prediction) pairs.

    Args:
        target: (N,) labels.
        predicted: (N,) predictions; samples with -1 were not tested and do not count.
        classes: K.

    Returns:
        (K, K), rows are targets.
    """
    tested = predicted >= 0
    cells = target[tested].astype(np.int64) * classes + predicted[tested]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Returns the share of right predictions of (..., K, K) confusions."""
    return ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum((-2, -1)))


def apcer(counts: np.ndarray, live: int) -> np.ndarray:
    """Returns the share of attacks taken for live, of (..., K, K) confusions."""
    attacks = counts.sum((-2, -1)) - counts[..., live, :].sum(-1)
    accepted = counts[..., :, live].sum(-1) - counts[..., live, live]
    return ratio(accepted, attacks)


def bpcer(counts: np.ndarray, live: int) -> np.ndarray:
    """Returns the share of live presentations taken for attacks, of (..., K, K) confusions."""
    total = counts[..., live, :].sum(-1)
    return ratio(total - counts[..., live, live], total)


def acer(counts: np.ndarray, live: int) -> np.ndarray:
    """Returns (APCER + BPCER) / 2 of (..., K, K) confusions; NaN without live or without attack.

    All kinds of attack are pooled, as the papers on CASIA-SURF do, not the worst kind taken.
    """
    return (apcer(counts, live) + bpcer(counts, live)) / 2


def eer_auc(positive: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Returns the equal error rate and the area under the ROC curve.

    The equal error rate is where the share of accepted negatives meets that of rejected positives,
    linearly between neighbouring thresholds.

    Args:
        positive: (N,) bool.
        score: (N,) of which larger is more positive; equal scores are accepted together.

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


def uar(counts: np.ndarray) -> np.ndarray:
    """Returns the mean recall over the classes that occur, of (..., K, K) confusions."""
    return nanmean(ratio(np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(-1)))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur or are predicted, of (..., K, K)."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return nanmean(ratio(2 * right, counts.sum(-1) + counts.sum(-2)))


def dice(areas: np.ndarray) -> np.ndarray:
    """Returns 2 intersection / (prediction + label) of areas (..., 3, R); 1 where both are 0."""
    intersection, predicted, labelled = np.moveaxis(areas, -2, 0)
    found = ratio(2 * intersection, predicted + labelled)
    return np.where(np.isnan(found), 1.0, found)


def miou(areas: np.ndarray) -> np.ndarray:
    """Returns the mean intersection over union of pooled areas (..., 3, K).

    A class that is neither labelled nor predicted has no IoU and is left out of the mean, as in
    mmsegmentation; the code of ESANet and MMANet counts it as 0 instead.

    Args:
        areas: Pixels of intersection, prediction and label, summed over images.
    """
    intersection, predicted, labelled = np.moveaxis(areas, -2, 0)
    return nanmean(ratio(intersection, predicted + labelled - intersection))


def sample_counts(outcomes: Outcomes, subset: str, metric: str, live: int = 1) -> np.ndarray:
    """Returns what each sample adds to a metric, (N, C), all zero where it was not tested.

    C is 4 for ACER (the confusion of attack and live), 2 for accuracy (wrong, right), 3K for mIoU,
    and 1 + R for Dice (one, and each region's Dice), whose samples are volumes.
    """
    if metric == 'Dice':
        areas = outcomes[f'areas/{subset}']
        tested = areas.min((1, 2)) >= 0
        each = np.insert(dice(areas), 0, 1.0, axis=1)
        return np.where(np.expand_dims(tested, 1), each, 0.0)
    if metric == 'mIoU':
        areas = outcomes[f'areas/{subset}']
        return areas.reshape(len(areas), -1)
    target, predicted = outcomes['target'], outcomes[f'pred/{subset}']
    if metric == 'ACER':
        cells, columns = 2 * (target == live) + (predicted == live), 4
    else:
        cells, columns = (target == predicted).astype(np.int64), 2
    return (cells[:, None] == np.arange(columns)) & (predicted >= 0)[:, None]


def score(totals: np.ndarray, metric: str) -> np.ndarray:
    """Returns the metric (...) of summed `sample_counts` (..., C)."""
    if metric == 'mIoU':
        return miou(totals.reshape(*totals.shape[:-1], 3, -1))
    if metric == 'Dice':
        return ratio(totals[..., 1:].mean(-1), totals[..., 0])
    if metric == 'ACER':
        return acer(totals.reshape(*totals.shape[:-1], 2, 2), live=1)
    return ratio(totals[..., 1], totals.sum(-1))


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns part / whole, NaN where whole is 0."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(whole > 0, part / whole, np.nan)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the last axis of what is not NaN, NaN where nothing is left."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(-1), there.sum(-1))
