"""The list of cases in a prepared root of volumes, and the division of cases into splits."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.dataset import SPLITS, Geometry
from benchmark.errors import UserError
from benchmark.missing import derive
from datasets.common.io.files import lines
from datasets.common.io.paths import has_file
from datasets.common.prepare.manifest import read_manifest

SEGMENTATION = 'seg'

INDEX = 'cases.txt'
REGIONS = 'regions.txt'
SPACING = 'spacing.txt'
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


def read_index(root: Path, dataset: str = 'DATASET') -> list[Case]:
    """Reads the list of cases that the preparation wrote.

    Args:
        root: A prepared root.
        dataset: Registered name of the data set, for the command that a message shows.

    Raises:
        UserError: It is missing or broken.
    """
    file = root / INDEX
    if not has_file(file):
        raise UserError(
            f'{file}: expected a prepared root, found nothing there; prepare one by '
            f'python datasets/prepare.py {dataset} {shlex.quote(str(root))} PREPARED'
        )
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


def spacing_line(case: str, spacing: Sequence[float]) -> str:
    """Returns the line of a case in the list of spacings."""
    return ' '.join([case, *(f'{x:.9g}' for x in spacing)])


def read_spacing(root: Path, cases: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Returns case -> distance in millimetres of neighbouring slices, rows and columns.

    Args:
        root: A prepared root.
        cases: The cases that are needed.

    Raises:
        UserError: The list of spacings is missing or broken, or lacks a case.
    """
    file, found = root / SPACING, {}
    expected = 'CASE SLICES ROWS COLUMNS, the distances of neighbouring voxels in millimetres'
    for line in lines(file) if has_file(file) else ():
        name, *numbers = line.rsplit(maxsplit=3)
        try:
            values = tuple(map(float, numbers))
        except ValueError:
            values = ()
        if len(values) != 3 or not all(0 < x < math.inf for x in values) or name in found:
            raise UserError(f'{file}: expected {expected}, one line for each case, found {line!r}')
        found[name] = values
    for case in cases:
        if case not in found:
            raise UserError(
                f'{file}: hd95=true: expected {expected}, found no line of case {case}; .npy files '
                'do not say it, and older versions did not keep it: add the line, or prepare anew'
            )
    return {case: found[case] for case in cases}


def geometry_of(cases: Sequence[Case], spacing: Mapping[str, Sequence[float]]) -> Geometry:
    """Returns where the voxels lie of slices, of which each has a case.

    Args:
        cases: The case of each slice.
        spacing: What `read_spacing` returns.
    """
    apart = np.array([spacing[case.id] for case in cases])
    extent = apart * [case.shape for case in cases]
    return Geometry(apart, np.sqrt((extent**2).sum(1)))


def gone(root: Path, cases: Collection[str]) -> list[str]:
    """Returns the files of cases that the preparation has written and that are gone."""
    manifest = read_manifest(root)
    files = manifest.files if manifest else ()
    mine = (file for file in files if file.rpartition('/')[0] in cases)
    return [file for file in mine if not has_file(root / file)]


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


def lacking(
    splits: Mapping[str, Sequence[str]],
    cases: Mapping[str, Case],
    modalities: Sequence[str],
    files: Callable[[str, Sequence[str]], Collection[str]],
) -> Iterator[str]:
    """Yields one line on cases without a modality, and one on those without a label.

    Args:
        splits: Split -> names of cases.
        cases: Name -> case.
        modalities: The modalities.
        files: Returns which of some modalities a case has.
    """
    gaps, empty = [], []
    for name, members in splits.items():
        there = [files(case, modalities) for case in members]
        for modality in modalities:
            count = sum(modality not in found for found in there)
            gaps += [f'{modality} in {count} of {len(members)} cases of {name}'] if count else []
        count = sum(cases[case].labels == (0,) for case in members)
        empty += [f'{count} of {len(members)} of {name}'] if count else []
    yield f'lacking: {", ".join(gaps)}' if gaps else 'every case has every modality'
    if empty:
        yield f'cases without a labelled voxel: {", ".join(empty)}'
