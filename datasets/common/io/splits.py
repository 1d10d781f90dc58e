"""A check that splits share no sample, and the choice of validation samples by a hash of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from benchmark.errors import UserError
from benchmark.missing import derive

Sample = TypeVar('Sample')


def check_disjoint(root: Path, splits: Mapping[str, Iterable[str]], what: str = 'sample') -> None:
    """Checks that every split has names and that no name occurs twice, in one split or in two.

    Args:
        root: The data root, for messages.
        splits: 'train', 'val', 'test' -> names.
        what: What the names belong to, e.g. 'clip', for messages.

    Raises:
        UserError: A split is empty, or a name occurs twice.
    """
    where: dict[str, str] = {}
    for split, names in splits.items():
        empty = True
        for name in names:
            empty = False
            if name in where:
                both = f'{split}, twice' if where[name] == split else f'{where[name]} and {split}'
                raise UserError(f'{root}: {what} {name!r} is in {both}')
            where[name] = split
        if empty:
            raise UserError(f'{root}: expected some {what}s of {split}, found none')


def held_out(name: str, share: float) -> bool:
    """Returns whether a sample of the published training split is used for validation.

    The answer depends on the name alone, so that the order of the files does not change the splits.

    Args:
        name: Name of the sample, or of the group that must stay together.
        share: Share of all samples that is used for validation, in [0, 1].
    """
    return derive(0, 'held out', name) % 10**6 < share * 10**6


def set_apart(
    published: Iterable[Sample], validates: Callable[[Sample], bool]
) -> tuple[list[Sample], list[Sample]]:
    """Divides the samples of a published training split into train and val, in their order.

    Args:
        published: The samples.
        validates: Whether a sample belongs to val.
    """
    train: list[Sample] = []
    val: list[Sample] = []
    for sample in published:
        (val if validates(sample) else train).append(sample)
    return train, val
