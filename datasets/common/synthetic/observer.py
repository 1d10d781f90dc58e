"""The ideal observer of segmentation: the labels that give the best expected mean IoU.

The observer knows the shapes of the regions and the probabilities of their classes, but not the
classes themselves. Its score is the ceiling of a synthetic data set.
"""

from __future__ import annotations

import numpy as np


def mean_iou(confusion: np.ndarray) -> float:
    """Returns the mean IoU, over classes that occur, of a confusion matrix (true, predicted)."""
    hits = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hits
    return float((hits[union > 0] / union[union > 0]).mean())


def iou_rule(chance: np.ndarray, area: np.ndarray, rounds: int = 50) -> np.ndarray:
    """Chooses the classes of regions so that the mIoU of the expected confusion matrix is high.

    One more pixel of probability p in class c changes the mIoU in proportion to
    (p (1 + I_c) - I_c) / U_c, where I_c is the IoU and U_c the union of the class. Each region
    takes the class of the greatest gain. I_c and U_c depend on the choice, so the rule is iterated;
    it starts from the most probable classes, and the best iteration counts.

    Args:
        chance: (R, K), class probabilities of the regions.
        area: (R,), areas of the regions in pixels.
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
    """Returns the mIoU of the classes that `iou_rule` chooses, pooled over all pictures.

    Args:
        chance: (N, R, K), class probabilities of the regions of N pictures.
        area: (N, R), areas of the regions in pixels.
        truth: (N, R), true classes of the regions.
    """
    count = chance.shape[-1]
    chosen = iou_rule(chance.reshape(-1, count), area.ravel())
    confusion = np.zeros((count, count))
    np.add.at(confusion, (truth.ravel(), chosen), area.ravel())
    return mean_iou(confusion)
