"""The ideal observer's decisions for segmentation: what is best when only the class is unsure."""

from __future__ import annotations

import numpy as np


def mean_iou(confusion: np.ndarray) -> float:
    """Returns the mean IoU of a confusion matrix (true, predicted) over classes that occur."""
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def iou_rule(chance: np.ndarray, area: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Labels regions for the best pooled mIoU of the expected confusion matrix.

    The gain of one more pixel of probability p in class c is (p (1 + I_c) - I_c) / U_c, with I_c
    the IoU and U_c the union: a linear rule whose weights depend on its own result, so it is
    iterated from the most probable class, and the best round kept.

    Args:
        chance: (R, K) class probabilities of the regions.
        area: (R,) pixels of the regions.
        rounds: Number of iterations.

    Returns:
        (R,) classes.
    """
    best, best_score, chosen = chance.argmax(1), -1.0, chance.argmax(1)
    for _ in range(rounds):
        picked = np.eye(chance.shape[1])[chosen]
        expected = (chance * area[:, None]).T @ picked
        hits = np.diag(expected)
        union = np.maximum(expected.sum(0) + expected.sum(1) - hits, 1e-9)
        iou = hits / union
        if iou.mean() > best_score:
            best, best_score = chosen, iou.mean()
        chosen = ((chance * (1 + iou) - iou) / union).argmax(1)
    return best


def ideal_iou(chance: np.ndarray, area: np.ndarray, truth: np.ndarray) -> float:
    """Returns the pooled mIoU that `iou_rule` scores on regions of known classes.

    Args:
        chance: (N, R, K) class probabilities of the regions of N pictures.
        area: (N, R) pixels of the regions.
        truth: (N, R) true classes.
    """
    count = chance.shape[-1]
    chosen = iou_rule(chance.reshape(-1, count), area.ravel())
    confusion = np.zeros((count, count))
    np.add.at(confusion, (truth.ravel(), chosen), area.ravel())
    return mean_iou(confusion)
