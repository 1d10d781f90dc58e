"""Whether the validation split gives the scores that a selection or a search compares."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.dataset import Dataset, Split, label_maps
from benchmark.engine.experiment import Experiment
from benchmark.engine.fitting import is_fitted
from benchmark.engine.loading import split_of
from benchmark.errors import UserError
from benchmark.method import IGNORE, Task
from benchmark.subsets import subset_table

NONE = 'no sample that has it'
"""What is found of a subset that no validation sample has."""

_FOUND: WeakKeyDictionary[Dataset, dict[str, dict[str, str]]] = WeakKeyDictionary()
"""What was found of a data set by the field `subsets` of the protocol, for as long as it is used: a
command asks for every experiment."""


def check(e: Experiment, tuned: bool = False) -> None:
    """Checks before the training that the validation scores exist which will be compared.

    Args:
        e: The experiment.
        tuned: Whether it stands for a search, which compares the mean over subsets.

    Raises:
        UserError: The metric is undefined on a subset that counts.
    """
    rule = 'last' if is_fitted(e.method) else e.protocol.selection
    if rule == 'last' and not tuned:
        return
    # Whatever else is wrong with the data is told where the experiment runs.
    known, which = _FOUND.setdefault(e.data, {}), e.protocol.subsets
    with contextlib.suppress(Exception):
        if which not in known:
            known[which] = undefined(e.data, e.subsets)
    lacking = known.get(which, {})
    for subset in _needed(e, rule, tuned, lacking):
        if subset in lacking:
            given = '--tune' if rule == 'last' else f'selection={rule}'
            raise UserError(
                f'{e.data.name}: {given}: expected {e.data.task.metric} of {subset} on the '
                f'validation split, found {lacking[subset]}'
            )


def _needed(e: Experiment, rule: str, tuned: bool, lacking: Mapping[str, str]) -> list[str]:
    """Returns the subsets whose scores are compared."""
    ids = e.subsets
    if rule != 'last' and e.method.dedicated:
        return ids  # each is that of a network of its own
    full = ids[-1:] if rule == 'full' else []
    if full and not tuned:
        return full
    # Subsets without samples are left out of a mean, and of the worst.
    return full + [subset for subset in ids if lacking.get(subset) != NONE]


def undefined(data: Dataset, subsets: Sequence[str] | None = None) -> dict[str, str]:
    """Returns subset id -> what is found in place of what its metric needs, where that lacks.

    Args:
        data: The data set.
        subsets: Ids of the subsets; all by default.
    """
    split, task = split_of(data, 'val'), data.task
    masks = subset_table(task.names, subsets)
    rows = {s: np.flatnonzero(split.available[:, mask].all(1)) for s, mask in masks.items()}
    found = {subset: NONE for subset, having in rows.items() if not len(having)}
    there = {subset: having for subset, having in rows.items() if len(having)}
    if task.metric == 'ACER':
        return found | _one_sided(split, task, there)
    if task.metric == 'mIoU':
        told = 'no labelled pixel in the samples that have it'
        return found | dict.fromkeys(_unlabelled(split, task, there), told)
    return found


def _one_sided(split: Split, task: Task, rows: dict[str, np.ndarray]) -> dict[str, str]:
    live = np.asarray(split.target[np.arange(len(split))]) == task.live
    told = {True: 'no attack', False: 'no live sample'}
    return {
        subset: f'{told[bool(live[having[0]])]} among those that have it'
        for subset, having in rows.items()
        if len(set(live[having].tolist())) == 1
    }


def _unlabelled(split: Split, task: Task, rows: dict[str, np.ndarray]) -> Iterator[str]:
    """Yields the subsets without a labelled pixel; of the others few label maps are read."""
    for subset, having in rows.items():
        maps = (label_maps(split.target[having[k : k + 1]], task) for k in range(len(having)))
        if not any((labels != IGNORE).any() for labels in maps):
            yield subset
