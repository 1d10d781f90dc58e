"""The list of cases in a prepared root of volumes, and the division of cases into splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmark.dataset import SPLITS
from benchmark.errors import UserError
from benchmark.missing import derive
from datasets.common.io.files import lines
from datasets.common.io.paths import has_file

INDEX = 'cases.txt'
REGIONS = 'regions.txt'
LABELS = 'labels='


class Case(NamedTuple):
    """One volume of a prepared root.

    Attributes:
        id: Name, also of its folder.
        shape: (S, H, W).
        first: First slice in which some modality is not 0 everywhere.
        last: Last such slice.
        labels: The labels that occur in it, in order.
    """

    id: str
    shape: tuple[int, int, int]
    first: int
    last: int
    labels: tuple[int, ...]

    @property
    def line(self) -> str:
        """The case as a line of the list."""
        labels = LABELS + ','.join(map(str, self.labels))
        return ' '.join(map(str, [self.id, *self.shape, self.first, self.last, labels]))

    @classmethod
    def read(cls, line: str) -> Case:
        """Reads a line of the list.

        Raises:
            ValueError: The line is not one that `line` gives.
        """
        # The name comes first because it may contain spaces.
        name, *numbers, labels = line.rsplit(maxsplit=6)
        slices, high, wide, first, last = map(int, numbers)
        key, *values = labels.partition(LABELS)[1:]
        found = tuple(map(int, values[0].split(',')))
        if not set(found) <= set(range(255)):
            raise ValueError(line)
        if not key or min(slices, high, wide) < 1 or not 0 <= first <= last < slices:
            raise ValueError(line)
        return cls(name, (slices, high, wide), first, last, found)


def read_index(root: Path) -> list[Case]:
    """Reads the list of cases that the preparation wrote.

    Raises:
        UserError: It is missing or broken.
    """
    file = root / INDEX
    if not has_file(file):
        raise UserError(f'{file}: expected a prepared root, found nothing there; see prepare.py')
    cases = []
    for k, line in enumerate(lines(file), 1):
        try:
            cases.append(Case.read(line))
        except ValueError:
            expected = f'CASE SLICES HEIGHT WIDTH FIRST LAST {LABELS}0,1'
            raise UserError(
                f'{file}, entry {k}: expected {expected}, found {line!r}; if an older version has '
                'prepared this root, prepare a new one'
            ) from None
    return cases


def listed(root: Path, fold: int) -> dict[str, list[str]] | None:
    """Returns the splits that `{train,val,test}<fold>.txt` in the root name, if they exist.

    Raises:
        UserError: Some of the three lists are there and others are not, or one is empty.
    """
    files = {name: root / f'{name}{fold}.txt' for name in SPLITS}
    if not any([has_file(file) for file in files.values()]):
        return None
    return {name: lines(file) for name, file in files.items()}


def cut(
    cases: Sequence[str],
    fold: int,
    shares: tuple[int, int, int],
    patient: Callable[[str], str] = str,
) -> dict[str, list[str]]:
    """Divides patients into train, val and test by the hash of their names, whatever their order.

    Args:
        cases: Their names.
        fold: Number of the split; another number gives another division.
        shares: Sizes of the three splits, which are scaled to the number of patients.
        patient: Returns the patient of a case; each case is one of its own by default.

    Returns:
        Split -> its cases.
    """
    members: dict[str, list[str]] = {}
    for case in sorted(cases):
        members.setdefault(patient(case), []).append(case)
    order = sorted(members, key=lambda name: (derive(fold, 'split', name), name))
    val, test = (max(1, round(len(order) * share / sum(shares))) for share in shares[1:])
    train = len(order) - val - test
    parts = (order[:train], order[train : train + val], order[train + val :])
    return {
        split: [case for name in part for case in members[name]]
        for split, part in zip(SPLITS, parts, strict=True)
    }
