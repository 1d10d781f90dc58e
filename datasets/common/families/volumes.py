"""Medical volumes, trained and tested slice by slice and scored volume by volume."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.missing import derive
from datasets.common.augment.transforms import Compose, Geometric, Intensity
from datasets.common.io.files import decoded, fingerprint, lines
from datasets.common.io.splits import check_disjoint

SEGMENTATION = 'seg'
SPLITS = ('train', 'val', 'test')
INDEX = 'cases.txt'
OPENED = 64
"""Number of volumes whose files are kept mapped; each takes a file handle."""


class Case(NamedTuple):
    """One volume of a prepared root.

    Attributes:
        id: Name, also of its folder.
        shape: (S, H, W).
        first: First slice in which some modality is not 0 everywhere.
        last: Last such slice.
        top: The greatest label.
    """

    id: str
    shape: tuple[int, int, int]
    first: int
    last: int
    top: int


class Slices:
    """Rows that are slices of volumes, cut or padded about their centre and read from mapped files.

    The window does not depend on the content of any modality, so no information on a missing
    modality leaks through it.

    Args:
        files: One .npy file (S, H, W) per row.
        numbers: The slice of each row.
        size: (H, W) of the rows.
        channel: Whether rows are inputs (1, H, W) float32 rather than labels (H, W) uint8.
    """

    def __init__(
        self, files: Sequence[Path], numbers: Sequence[int], size: tuple[int, int], channel: bool
    ) -> None:
        self.files, self.numbers, self.size, self.channel = files, numbers, size, channel
        self.shape = (len(files), *((1,) if channel else ()), *size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at an array of positions."""
        rows = np.atleast_1d(np.asarray(index))
        out = np.zeros((len(rows), *self.size), np.float32 if self.channel else np.uint8)
        for k, row in enumerate(rows):
            found = mapped(self.files[row])[self.numbers[row]]
            inside, outside = zip(*map(window, found.shape, self.size), strict=True)
            out[(k, *outside)] = found[inside]
        return out[:, None] if self.channel else out


def window(source: int, size: int) -> tuple[slice, slice]:
    """Returns the central part of `source` pixels that fits into `size`, and its place there."""
    common = min(source, size)
    a, b = (source - common) // 2, (size - common) // 2
    return slice(a, a + common), slice(b, b + common)


@functools.lru_cache(OPENED)
def mapped(file: Path) -> np.ndarray:
    """Opens a .npy file without reading it.

    Raises:
        UserError: It is missing, broken or no volume.
    """
    found = decoded(file, functools.partial(np.load, mmap_mode='r', allow_pickle=False))
    if found.ndim != 3:
        raise UserError(f'{file}: expected a volume (S, H, W), found {found.shape}')
    return found


class SliceOptions(TypedDict):
    """Options of the constructors of data sets of volumes.

    Attributes:
        size: (H, W) of the slices.
        width: Channels of the encoders' first stage.
        augment: Whether training changes slices at random.
    """

    size: tuple[int, int]
    width: int
    augment: bool


class Volumes(Dataset):
    """Base of the data sets of volumes; `volume_files.prepare_cases` writes their roots.

    Every slice of a test volume is tested, and Dice is taken over the volume. Training leaves out
    the slices before the first and after the last in which some modality is not 0 everywhere.

    Args:
        root: A prepared root.
        splits: 'train', 'val', 'test' -> names of cases.
        modalities: Their names in order.
        classes: Names of the labels.
        regions: For Dice, (name, labels) of each region.
        options: The options of the subclass's constructor.

    Raises:
        UserError: A file is missing, or a case is in two splits.
    """

    streams = True

    def __init__(
        self,
        root: Path,
        splits: dict[str, list[str]],
        modalities: tuple[str, ...],
        classes: tuple[str, ...],
        regions: tuple[tuple[str, tuple[int, ...]], ...],
        options: SliceOptions,
    ) -> None:
        self.root, self.splits, self.augment = root, splits, options['augment']
        self.cases = {case.id: case for case in read_index(root)}
        self._check(modalities)
        size = options['size']
        kinds = (*modalities, SEGMENTATION)
        used = [case for cases in splits.values() for case in cases]
        self.fingerprint = fingerprint(
            [f for c in used for k in kinds if (f := root / c / f'{k}.npy').is_file()],
            splits,
            (classes, regions, options),
        )
        self.task = Task(
            self.name,
            'segmentation',
            tuple(Modality(m, (1, *size)) for m in modalities),
            classes,
            'Dice',
            options['width'],
            regions=regions,
        )

    def _check(self, modalities: tuple[str, ...]) -> None:
        for name, cases in self.splits.items():
            for case in cases:
                if case not in self.cases:
                    raise UserError(f'{self.root / INDEX}: expected case {case!r} of {name}')
                folder = self.root / case
                if not (folder / f'{SEGMENTATION}.npy').is_file():
                    raise UserError(f'{folder / SEGMENTATION}.npy: expected a file, found nothing')
                if not any((folder / f'{m}.npy').is_file() for m in modalities):
                    expected = ', '.join(modalities)
                    raise UserError(f'{folder}: expected some of {expected}, found none')
        check_disjoint(self.root, self.splits, 'case')

    def split(self, name: str) -> Split:
        """Returns the slices of a split; no file of another split is read."""
        if name not in self.splits:
            raise unknown(f'split of {self.name}', name, self.splits)
        train = name == 'train'
        rows = [
            (case.id, number)
            for case in map(self.cases.__getitem__, self.splits[name])
            for number in (range(case.first, case.last + 1) if train else range(case.shape[0]))
        ]
        cases, numbers = [r[0] for r in rows], [r[1] for r in rows]
        names, size = self.task.names, self.task.modalities[0].shape[1:]
        size = (size[0], size[1])
        there = {c: [(self.root / c / f'{m}.npy').is_file() for m in names] for c in set(cases)}

        def rows_of(kind: str) -> Slices:
            files = [self.root / case / f'{kind}.npy' for case in cases]
            return Slices(files, numbers, size, kind != SEGMENTATION)

        return Split(
            inputs={m: rows_of(m) for m in names},
            target=rows_of(SEGMENTATION),
            available=np.array([there[case] for case in cases]),
            ids=np.array([f'{case}/{number:03d}' for case, number in rows]),
            groups=np.array(cases),
            augment=self._augmentation(size) if train and self.augment else None,
        )

    def _augmentation(self, size: tuple[int, int]) -> Compose:
        names = self.task.names
        turned = Geometric(size, rotate=10, flip=0.5, vertical_flip=0.5, nearest=names)
        return Compose(turned, Intensity(names))


def read_index(root: Path) -> list[Case]:
    """Reads the list of cases that the preparation wrote.

    Raises:
        UserError: It is missing or broken.
    """
    file = root / INDEX
    if not file.is_file():
        raise UserError(f'{file}: expected a prepared root, found nothing there; see prepare.py')
    cases = []
    for k, line in enumerate(lines(file), 1):
        words = line.split()
        if len(words) != 7 or not all(w.isdigit() for w in words[1:]):
            expected = 'CASE SLICES HEIGHT WIDTH FIRST LAST TOP'
            raise UserError(f'{file}, entry {k}: expected {expected}, found {line!r}')
        s, h, w, first, last, top = map(int, words[1:])
        cases.append(Case(words[0], (s, h, w), first, last, top))
    return cases


def listed(root: Path, fold: int) -> dict[str, list[str]] | None:
    """Returns the splits that `{train,val,test}<fold>.txt` in the root name, if they exist."""
    files = {name: root / f'{name}{fold}.txt' for name in SPLITS}
    if not files['train'].is_file():
        return None
    return {name: lines(file) for name, file in files.items()}


def cut(cases: Sequence[str], fold: int, shares: tuple[int, int, int]) -> dict[str, list[str]]:
    """Divides cases into train, val and test by the hash of their names, whatever their order.

    Args:
        cases: Their names.
        fold: Number of the split; another number gives another division.
        shares: Sizes of the three splits, which are scaled to the number of cases.
    """
    order = sorted(cases, key=lambda case: (derive(fold, 'split', case), case))
    val, test = (max(1, round(len(order) * share / sum(shares))) for share in shares[1:])
    train = len(order) - val - test
    return {'train': order[:train], 'val': order[train : train + val], 'test': order[train + val :]}
