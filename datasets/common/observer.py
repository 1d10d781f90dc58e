"""The ideal observer's decisions for segmentation: what is best when only the class is unsure."""

from __future__ import annotations

import numpy as np


def mean_iou(confusion: np.ndarray) -> float:
    """Returns the mean IoU of a confusion matrix (true, predicted)."""
    hits = np.diag(confusion)
    return float((hits / (confusion.sum(0) + confusion.sum(1) - hits)).mean())


def iou_rule(chance: np.ndarray, area: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Labels regions for the best expected pooled mIoU.

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
        union = expected.sum(0) + expected.sum(1) - hits
        iou = hits / union
        if iou.mean() > best_score:
            best, best_score = chosen, iou.mean()
        chosen = ((chance * (1 + iou) - iou) / union).argmax(1)
    return best
