"""A choice of the modalities of a data set: the option `modalities=a+b`, which all of them have."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.dataset import Dataset, Preparation, Split
from benchmark.errors import UserError, unknown
from benchmark.options import Option, options_of


def open_data(cls: type[Dataset], options: Mapping[str, Any]) -> Dataset:
    """Returns the data set of a class with these options, of which `modalities` chooses its inputs.

    A class whose constructor takes `modalities` reads no others; of the others the rest is left
    out of every split.

    Raises:
        UserError: A modality is unknown, or the data cannot be used.
    """
    if not (names := chosen(cls, options)):
        return cls(**{k: v for k, v in options.items() if k not in cls.shared()})
    whole = open_data(cls, {**options, 'modalities': ''})
    for name in names:
        if name not in whole.task.names:
            raise unknown(f'modality of {whole.name}', name, whole.task.names)
    return whole if names == whole.task.names else Narrowed(whole, names)


def chosen(cls: type[Dataset], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the modalities that the shared option names; none where it is not used."""
    given = options.get('modalities', '') if 'modalities' in cls.shared() else ''
    return named(given, 'modalities')


def named(given: str, what: str) -> tuple[str, ...]:
    """Returns the names that are joined by '+'; none of an empty text.

    Args:
        given: The text.
        what: What it is for, for messages.

    Raises:
        UserError: A name is empty, or there twice.
    """
    names = tuple(given.split('+')) if given else ()
    if '' in names or len(set(names)) < len(names):
        raise UserError(f'{what}: expected different names joined by +, found {given!r}')
    return names


def recorded(data: Dataset, cls: type[Dataset], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that a record holds: all but younger ones whose default applies.

    Args:
        data: The data set, as opened with the options.
        cls: Its class.
        options: All of its options.
    """
    known = options_of(cls)
    younger = {*cls.shared(), *cls.younger}
    kept = {k: v for k, v in options.items() if k not in younger or v != known[k].default}
    if 'modalities' in younger and not isinstance(data, Narrowed):
        kept.pop('modalities', None)  # all of them, in their own order
    return kept


class Narrowed(Dataset):
    """A data set of which some modalities are used, in the order in which they were chosen.

    Args:
        whole: The data set.
        names: The modalities that are used.
    """

    def __init__(self, whole: Dataset, names: Sequence[str]) -> None:
        self.whole, self.name, self.spec = whole, whole.name, whole.spec
        known = {m.name: m for m in whole.task.modalities}
        modalities = tuple(known[name] for name in names)
        self.task = dataclasses.replace(whole.task, modalities=modalities)
        told = f'{whole.fingerprint} {"+".join(names)}'
        self.fingerprint = hashlib.sha256(told.encode()).hexdigest()[: len(whole.fingerprint)]
        self.recipe, self.recipe_note, self.streams = whole.recipe, whole.recipe_note, whole.streams
        self.surfaces = whole.surfaces
        gone = ', '.join(name for name in whole.task.names if name not in names)
        self.notes = [*whole.notes, *([f'not used: {gone}'] if gone else [])]

    @property
    def declared(self) -> dict[str, Option]:
        """The options of the whole data set."""
        return self.whole.declared

    def split(self, name: str) -> Split:
        """Returns a split whose other modalities are never read."""
        return self.whole.split(name).among(self.task.names, self.whole.task.names)

    def check(self) -> None:
        """Checks the whole data set."""
        self.whole.check()

    def preparation(self, split: Split) -> Preparation:
        """Returns what the samples of a split have undergone."""
        return {m: f for m, f in self.whole.preparation(split).items() if m in self.task.names}

    def ceiling(self) -> dict[str, float]:
        """Returns the ceilings of the subsets of the modalities that are used."""
        names = self.task.names
        found = {frozenset(s.split('+')): value for s, value in self.whole.bounds[0].items()}
        return {
            '+'.join(n for n in names if n in members): value
            for members, value in found.items()
            if members <= set(names)
        }

    def chance(self) -> float | None:
        """Returns the metric of guessing, where it is known."""
        return self.whole.bounds[1]
