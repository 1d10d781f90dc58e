"""Predictions of other code on the test samples of a data set, as a file tells them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.shown import one_line

LONGEST = 80
"""Most characters in the name of a method."""


SHOWN = 1000
"""Most characters in the spec of a data set."""


@dataclass(frozen=True)
class Predictions:
    """What a file says of one training of a method.

    Attributes:
        file: The file.
        method: Name of the method.
        dataset: The data set: a spec, or the name of data of the user's own.
        seed: Which training it is.
        ids: (N,) names of the samples or, for Dice, of the volumes.
        subsets: Name of a subset -> kind -> array of N; the kinds are those of `KINDS`, and 'mask'
            for the paths of label maps.
        target: (N,) the labels as numbers or names of classes, if the file gives them.
        classes: The classes in the file's order, if it gives them.
        note: A sentence on the method that tables show.
        fingerprint: The fingerprint of the data set, if the file gives it.
    """

    file: Path
    method: str
    dataset: str
    seed: int
    ids: np.ndarray
    subsets: Mapping[str, Mapping[str, np.ndarray]]
    target: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    note: str = ''
    fingerprint: str = ''

    def __post_init__(self) -> None:
        if not (self.method.strip() and self.method.isprintable() and len(self.method) <= LONGEST):
            raise self.wrong(
                'method', f'a name of 1 to {LONGEST} printable characters', repr(self.method[:100])
            )
        if not (self.dataset and self.dataset.isprintable() and len(self.dataset) <= SHOWN):
            raise self.wrong('dataset', 'the name of a data set', repr(self.dataset[:100]))
        if not 0 <= self.seed < 2**31:
            raise self.wrong('seed', 'a whole number from 0 to 2147483647', self.seed)
        repeated = [name for name, count in Counter(self.ids.tolist()).items() if count > 1]
        if repeated:
            raise self.wrong('id', 'every sample once', f'{repeated[0]!r} twice')
        if not self.subsets:
            raise self.wrong('subsets', 'predictions of at least one subset', 'none')

    def wrong(self, where: str, expected: str, found: object) -> UserError:
        """Returns the error on a part of the file."""
        return wrong(self.file, where, expected, found)

    def order(self, names: Sequence[str]) -> np.ndarray:
        """Returns where the file has each of the test samples, (N,).

        Args:
            names: The N names of the test samples in the order of the split.

        Raises:
            UserError: The file lacks a test sample, or has another one.
        """
        places = {name: k for k, name in enumerate(self.ids.tolist())}
        known = set(names)
        for name in places:
            if name not in known:
                told = str(unknown('sample', name[:100], names)).partition(' (known')[0]
                raise UserError(
                    f'{self.file}: id: {told} (expected the {len(names)} test samples, such as '
                    f'{names[0]!r})'
                )
        for name in names:
            if name not in places:
                raise self.wrong(
                    'id', f'all {len(names)} test samples', f'{len(places)}; {name!r} is missing'
                )
        return np.array([places[name] for name in names])

    def form(self, subset: str, known: Sequence[str], beside: str = '') -> str:
        """Returns in which of the known kinds the file tells the predictions of a subset.

        Args:
            subset: The subset as the file calls it.
            known: The kinds of which it may have one.
            beside: A kind that it may have beside that, or alone.

        Returns:
            The kind, '' if there is only the one of `beside`.

        Raises:
            UserError: It has none, two, or one that the task does not know.
        """
        kinds = [kind for kind in self.subsets[subset] if kind != beside]
        other = [kind for kind in kinds if kind not in known]
        if other:
            expected = ', '.join(filter(None, (*known, beside)))
            raise self.wrong(f'subset {subset}', f'one of {expected} for this task', other[0])
        if len(kinds) > 1:
            raise self.wrong(f'subset {subset}', f'either {kinds[0]} or {kinds[1]}', 'both')
        return kinds[0] if kinds else ''


def wrong(file: Path, where: str, expected: str, found: object) -> UserError:
    """Returns the error on a part of a file."""
    return UserError(one_line(f'{file}: {where}: expected {expected}, found {found}'))
