"""Weights of the classes in the task's loss: the option `class_weights` of a user's own data."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from benchmark.dataset import Rows, label_maps
from benchmark.errors import UserError
from benchmark.method import IGNORE, Task

ClassWeights = Literal['', 'balanced'] | tuple[float, ...]
"""'balanced', a number for each class, or nothing for equal weights."""

CHUNK = 64
"""Number of label maps that are counted at once."""


def weights_of(
    given: ClassWeights, task: Task, target: Rows, rows: np.ndarray, where: str
) -> tuple[float, ...]:
    """Returns the weights of the classes as a task holds them; none where they are equal.

    Args:
        given: The option. Of several labels, 'balanced' weighs the positive samples of each by the
            number of negative ones divided by theirs.
        task: Gives the K classes.
        target: The labels of the training split, which are read for 'balanced' alone.
        rows: (n,) positions of the training samples that count.
        where: What the weights are for, for messages.

    Raises:
        UserError: There is not one positive number for each class.
    """
    if given and task.kind == 'regression':
        raise UserError(f'{where}: class_weights: expected none for a regression, found some')
    if given == 'balanced' and task.kind == 'multilabel':
        found = np.asarray(target[rows]).sum(0)
        return tuple(((len(rows) - found) / np.maximum(found, 1)).clip(min=1e-3).tolist())
    if isinstance(given, str):
        return balanced(counted(target, rows, task)) if given else ()
    if len(given) != len(classes := task.classes):
        raise UserError(
            f'{where}: class_weights: expected balanced or {len(classes)} numbers, one for each '
            f'class, found {len(given)}'
        )
    if wrong := [w for w in given if not 0 < w < math.inf]:
        raise UserError(f'{where}: class_weights: expected positive numbers, found {wrong[0]:g}')
    return given


def balanced(counts: np.ndarray) -> tuple[float, ...]:
    """Returns the weights n / (k n_c) of classes, as scikit-learn's class_weight='balanced'.

    n_c is the number of training samples of class c, or of its labelled training pixels, n their
    sum over the classes, and k the number of classes that occur. A class that does not occur has
    weight 1, which nothing depends on.

    Args:
        counts: (K,).
    """
    occurs = counts > 0
    weights = counts.sum() / (occurs.sum() * np.where(occurs, counts, 1))
    return tuple(np.where(occurs, weights, 1.0).tolist())


def counted(target: Rows, rows: np.ndarray, task: Task) -> np.ndarray:
    """Returns how many samples, or labelled pixels, each class has, (K,).

    Args:
        target: (N,) classes, or (N, H, W) label maps.
        rows: (n,) positions of the samples that count.
        task: Gives the K classes.
    """
    counts = np.zeros(len(task.classes), np.int64)
    for some in np.array_split(rows, range(CHUNK, len(rows), CHUNK)):
        labels = np.asarray(target[some])
        if labels.ndim > 1:
            labels = label_maps(labels, task)
            labels = labels[labels != IGNORE]
        counts += np.bincount(labels.ravel().astype(np.int64), minlength=len(counts))
    return counts
