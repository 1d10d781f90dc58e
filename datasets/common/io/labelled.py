"""What holds of every classified data set: disjoint splits, labels in range, no class unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError


class Labelled(NamedTuple):
    """One split: ids (N,) str and labels (N,) int64."""

    ids: np.ndarray
    labels: np.ndarray


def check_labelled(
    splits: dict[str, Labelled], classes: int, where: Callable[[str], Path | str]
) -> None:
    """Checks the splits of a classified data set.

    Args:
        splits: 'train', 'val', 'test' -> ids and labels.
        classes: K.
        where: Names the file, or the part of one, that a split was read from.

    Raises:
        UserError: A split is empty or has more labels than ids, a sample is in a split twice or in
            two splits, a label is none of 0 to K - 1, or train lacks a class.
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
