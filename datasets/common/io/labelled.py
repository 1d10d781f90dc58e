"""Checks of the splits of a classification data set: disjoint, labels in range, no empty class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError


class Labelled(NamedTuple):
    """Samples and labels of one split.

    Attributes:
        ids: (N,) str, names of the samples.
        labels: (N,) int64, class indices.
    """

    ids: np.ndarray
    labels: np.ndarray


def check_labelled(
    splits: dict[str, Labelled], classes: int, where: Callable[[str], Path | str]
) -> None:
    """Checks that splits are disjoint and not empty, and that their labels can be trained on.

    Args:
        splits: 'train', 'val', 'test' -> ids and labels.
        classes: Number of classes K.
        where: Maps a split's name to the file that it was read from, for messages.

    Raises:
        UserError: A split is empty or has not one label for each id; a sample occurs twice in a
            split or in two splits; a label is not in 0 to K - 1; or no training sample belongs to
            one of the classes.
    """
    seen: dict[str, str] = {}
    for name, (ids, labels) in splits.items():
        if len(ids) != len(labels):
            raise UserError(f'{where(name)}: expected {len(ids)} labels, found {len(labels)}')
        if not len(ids):
            raise UserError(f'{where(name)}: expected some samples, found none')
        for row, sample in enumerate(ids.tolist()):
            if sample in seen:
                also = 'twice' if seen[sample] == name else f'and in {where(seen[sample])}'
                raise UserError(f'{where(name)}: sample {sample!r} in row {row} is there {also}')
            seen[sample] = name
        wrong = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(wrong):
            found = f'{labels[wrong[0]]} in row {wrong[0]}'
            raise UserError(f'{where(name)}: expected labels 0 to {classes - 1}, found {found}')
    absent = set(range(classes)) - set(splits['train'].labels.tolist())
    if absent:
        found = f'none of {min(absent)}'
        raise UserError(f'{where("train")}: expected samples of every class, found {found}')
