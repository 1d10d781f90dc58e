"""Fewer training samples than there are: the option `train` of a user's own arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import UserError


def used(
    file: Path, rows: np.ndarray, there: np.ndarray, target: Any, count: int, classes: bool
) -> np.ndarray:
    """Returns the training samples that are used.

    Args:
        file: The file or folder, for messages.
        rows: (n,) positions of the training samples.
        there: (N,) bool, the samples that have a modality.
        target: The targets of all samples, which nobody has checked yet.
        count: How many are used, of those that have a modality; 0 for all, as they are.
        classes: Whether the targets are to be classes or label maps.

    Raises:
        UserError: There are fewer, or less than two are asked for, or all of them are of one class.
    """
    if not count:
        return rows
    some = rows[there[rows]]
    if not 1 < count <= len(some):
        raise UserError(
            f'{file}: train: expected 0 for all training samples, or a number from 2 to '
            f'{len(some)}, which is how many have a modality, found {count}'
        )
    labels = np.asarray(target)
    if not classes or labels.shape != there.shape or labels.dtype.kind not in 'iub':
        return some[chosen(np.zeros(len(some), int), count)]
    found = some[chosen(labels[some], count)]
    if len(np.unique(labels[found])) < 2 <= len(np.unique(labels[some])):
        raise UserError(
            f'{file}: train: expected a number of samples that holds two classes or more, found '
            f'{count}, all of class {labels[found[0]]}'
        )
    return found


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
    rng = np.random.default_rng(0)
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    places = np.empty(len(labels))
    for label in np.unique(shuffled):
        own = np.flatnonzero(shuffled == label)
        # The samples of a class stand at equal distances, from a place that is drawn: otherwise
        # those of all small classes would come at once.
        places[own] = (np.arange(len(own)) + rng.random()) / len(own)
    return np.sort(order[np.argsort(places, kind='stable')[:count]])
