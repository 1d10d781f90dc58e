"""Splits that share no sample, and validation cut from train by the hash of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark.errors import UserError
from benchmark.missing import derive


def check_disjoint(root: Path, splits: Mapping[str, Iterable[str]], what: str = 'sample') -> None:
    """Checks that no split is empty and no name is in two of them, or in one twice.

    Args:
        root: Named in the message.
        splits: 'train', 'val', 'test' -> names.
        what: What the names are of.

    Raises:
        UserError: They are not so.
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
    """Returns whether a training sample validates: the same ones whatever the order of files."""
    return derive(0, 'held out', name) % 10**6 < share * 10**6
