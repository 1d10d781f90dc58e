"""Whether stated probabilities are true: formulas on the samples of one subset."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmark.records.metrics import tested
from benchmark.records.schema import DatasetInfo, Outcomes

BINS = 15
"""Bins of equal width for the expected calibration error, as in Guo et al. (2017)."""


class Stated(NamedTuple):
    """What a network stated about n samples.

    Attributes:
        confidence: (n,) the probability of the predicted class.
        right: (n,) bool, whether the prediction is right.
        brier: (n,) half the squared distance of the probabilities from the truth (Brier, 1950; half
            of it, so that it lies between 0 and 1), or None where the probabilities of the other
            classes were not kept.
    """

    confidence: np.ndarray
    right: np.ndarray
    brier: np.ndarray | None


def stated(outcomes: Outcomes, subset: str, data: DatasetInfo) -> Stated | None:
    """Returns what a run stated on a subset; None where no probabilities were kept."""
    if f'pred/{subset}' not in outcomes:
        return None
    there = tested(outcomes, subset, data['metric'])
    target, predicted = outcomes['target'][there], outcomes[f'pred/{subset}'][there]
    right = target == predicted
    logits, shares = outcomes.get(f'logit/{subset}'), outcomes.get(f'score/{subset}')
    if logits is not None and logits.ndim == 2:
        every = special.softmax(logits[there].astype(np.float64), axis=1)
        truth = np.eye(every.shape[1])[target]
        return Stated(
            every[np.arange(len(every)), predicted], right, ((every - truth) ** 2).sum(1) / 2
        )
    of = data['live'] if data['metric'] == 'ACER' else 1
    if logits is not None:
        one = special.expit(logits[there].astype(np.float64))
    elif shares is not None and data['metric'] != 'ACER':
        confidence = shares[there].astype(np.float64)
        two = len(data['classes']) == 2
        return Stated(confidence, right, (confidence - right) ** 2 if two else None)
    elif shares is not None and len(data['classes']) == 2:
        one = shares[there].astype(np.float64)
    else:
        return None
    confidence = np.where(predicted == of, one, 1 - one)
    return Stated(confidence, right, (confidence - right) ** 2)


def bins(found: Stated, count: int = BINS) -> np.ndarray:
    """Returns for bins of equal width number, sum of confidences and number of right ones, (3, B).

    A confidence on the border of two bins belongs to the lower one.
    """
    place = np.searchsorted(np.linspace(0, 1, count + 1)[1:-1], found.confidence)
    each = (None, found.confidence, found.right.astype(float))
    return np.stack([np.bincount(place, weights, minlength=count) for weights in each])


def calibration_error(binned: np.ndarray) -> float:
    """Returns the expected calibration error of `bins`: |accuracy - confidence|, by bin size."""
    total = binned[0].sum()
    return float(np.abs(binned[2] - binned[1]).sum() / total) if total else math.nan


def risks(found: Stated) -> np.ndarray:
    """Returns the share of errors among the k most confident predictions, for k = 1, ..., n.

    Samples of one confidence come in no order: each counts as the mean of them. The mean of the
    result is the area under the risk-coverage curve (Geifman and El-Yaniv, 2017).
    """
    _, place, size = np.unique(-found.confidence, return_inverse=True, return_counts=True)
    share = np.bincount(place, ~found.right) / size
    return np.cumsum(np.repeat(share, size)) / np.arange(1, len(place) + 1)
