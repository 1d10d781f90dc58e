"""Fewer training samples than there are: the option `train` of a user's own arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError


def used(file: Path, rows: np.ndarray, there: np.ndarray, target: Any, count: int) -> np.ndarray:
    """Returns the training samples that are used.

    Args:
        file: The file or folder, for messages.
        rows: (n,) positions of the training samples.
        there: (N,) bool, the samples that have a modality.
        target: The targets of all samples, which nobody has checked yet.
        count: How many are used, of those that have a modality; 0 for all, as they are.

    Raises:
        UserError: There are fewer, or the number is negative.
    """
    if not count:
        return rows
    some = rows[there[rows]]
    if not 0 < count <= len(some):
        raise UserError(
            f'{file}: train: expected 0 for all training samples, or a number from 1 to '
            f'{len(some)}, which is how many have a modality, found {count}'
        )
    labels = np.asarray(target)
    known = labels.shape == there.shape and labels.dtype.kind in 'iub'
    return some[chosen(labels[some] if known else np.zeros(len(some), int), count)]


def chosen(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns which samples are taken, each class in its proportion.

    The order in which they are taken is drawn once and for all. A choice of more samples therefore
    holds every choice of fewer, and learning curves compare what differs by number alone.

    Args:
        labels: (n,) classes.
        count: How many to take, 1 to n.

    Returns:
        (count,) positions, in ascending order.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = labels[order]
    places = np.empty(len(labels))
    for label in np.unique(shuffled):
        own = np.flatnonzero(shuffled == label)
        # Of the n samples of a class, the one with the index i comes at the place (i + 1/2) / n.
        places[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.sort(order[np.argsort(places, kind='stable')[:count]])
