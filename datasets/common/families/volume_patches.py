"""Volumes for networks that are three-dimensional: patches in training, whole volumes in the test.

Patches are cut when they are read, from mapped files, so that no volume is held in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmark.dataset import VOID, Split
from benchmark.errors import UserError
from benchmark.method import Batch
from benchmark.missing import generator
from datasets.common.families.volume_index import Case
from datasets.common.io.nifti import mapped
from datasets.common.io.paths import has_file

Sides = tuple[int, int, int]
"""Slices, rows and columns of a box of voxels."""

Network = Literal['pyramid', 'unet3d']
"""What the data sets of volumes are trained with: slices with 'pyramid', patches with 'unet3d'."""

STRIDE = 8
"""Sides of patches are multiples of it: the stride of the encoders' coarsest map."""
SIZE, PATCH, PATCHES, FOREGROUND = '192x192', '80x80x80', 1, 1 / 3
"""Defaults of the options of the data sets of volumes."""

KEPT = 256
"""Places that are remembered: every modality of a row asks for the same one."""

YOUNGER = ('network', 'patch', 'patches', 'foreground')
"""The options of three-dimensional networks, which older records lack."""

RECIPE = {'epochs': 300, 'batch_size': 2}
"""Epochs and patches in a step of RFNet's code, over the recipe for slices."""


class Cut(NamedTuple):
    """How patches are cut in training.

    Attributes:
        sides: Their sides in voxels, (D, H, W).
        each: Patches of a case in an epoch.
        foreground: Share of the patches that are centred on a labelled voxel.
    """

    sides: Sides
    each: int
    foreground: float


def cut_of(
    where: str, network: str, size: str, patch: str, patches: int, foreground: float
) -> Cut | None:
    """Returns how patches are cut, or None where the network sees slices.

    Args:
        where: Name of the data set, for messages; the others are its options.
        network: 'pyramid' or 'unet3d'.
        size: Size of slices.
        patch: Sides of patches, 'DxHxW'.
        patches: As `Cut.each`.
        foreground: As `Cut.foreground`.

    Raises:
        UserError: An option is out of range, or has no effect with the network.
    """
    given = {'patch': (patch, PATCH), 'patches': (patches, PATCHES)}
    given |= {'foreground': (foreground, FOREGROUND)}
    idle = given if network == 'pyramid' else {'size': (size, SIZE)}
    for name, (value, default) in idle.items():
        if value != default:
            raise UserError(f'{where}:{name}={value}: has no effect with network={network}')
    if network == 'pyramid':
        return None
    found = re.fullmatch(r'(\d{1,4})x(\d{1,4})x(\d{1,4})', patch)
    sides = [int(side) for side in found.groups()] if found else [0]
    # Of less, the coarsest map would have one voxel, which cannot be normalised by itself.
    if min(sides) < 2 * STRIDE or any(side % STRIDE for side in sides):
        raise UserError(
            f'{where}:patch: expected DxHxW in multiples of {STRIDE} from {2 * STRIDE} on, '
            f'found {patch!r}'
        )
    if patches < 1:
        raise UserError(f'{where}:patches: expected 1 or more, found {patches}')
    if not 0 <= foreground <= 1:
        raise UserError(f'{where}:foreground: expected a share from 0 to 1, found {foreground}')
    return Cut((sides[0], sides[1], sides[2]), patches, foreground)


def extents_of(cases: Sequence[Case], cut: Cut) -> Sides:
    """Returns the sides of the smallest box that holds every one of some cases, and a patch."""
    d, h, w = np.max([cut.sides, *(case.shape for case in cases)], axis=0).tolist()
    return d, h, w


class Boxes:
    """Rows that are boxes of volumes, padded where they leave the volume.

    Inputs are padded with 0, and labels with VOID, which no loss and no metric counts.

    Args:
        files: One .npy file (S, H, W) per row.
        sides: Sides of the boxes.
        channel: Whether rows are inputs (1, D, H, W) float32 rather than labels (D, H, W) uint8.
        corner: Returns the first voxel of a row, from its position and the number of the draw; by
            default that of the volume.
        opened: Returns the volume of a file.
        number: Number of the draw.
    """

    def __init__(
        self,
        files: Sequence[Path],
        sides: Sequence[int],
        channel: bool,
        corner: Callable[[int, int], Sides] | None = None,
        opened: Callable[[Path], np.ndarray] = mapped,
        number: int = 0,
    ) -> None:
        self.files, self.sides, self.channel = files, tuple(sides), channel
        self.corner, self.opened, self.number = corner, opened, number
        self.shape = (len(files), *((1,) if channel else ()), *self.sides)

    def __len__(self) -> int:
        return len(self.files)

    def drawn(self, number: int) -> Boxes:
        """Returns the boxes that another number draws; whole volumes stay what they are."""
        return Boxes(self.files, self.sides, self.channel, self.corner, self.opened, number)

    def corners(self, index: np.ndarray) -> np.ndarray:
        """Returns the first voxels of the rows at an array of positions, (n, 3) int64."""
        rows = np.atleast_1d(np.asarray(index)).tolist()
        return np.array([self._corner(row) for row in rows], np.int64).reshape(-1, 3)

    def _corner(self, row: int) -> Sides:
        return self.corner(row, self.number) if self.corner else (0, 0, 0)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at an array of positions."""
        rows = np.atleast_1d(np.asarray(index))
        shape = (len(rows), *self.sides)
        out = np.zeros(shape, np.float32) if self.channel else np.full(shape, VOID, np.uint8)
        for k, row in enumerate(rows.tolist()):
            volume = self.opened(self.files[row])
            z, y, x = self._corner(row)
            d, h, w = self.sides
            found = volume[z : z + d, y : y + h, x : x + w]
            d, h, w = found.shape
            out[k, :d, :h, :w] = found
        return out[:, None] if self.channel else out


class Places:
    """Draws where the patch of a row lies.

    All modalities and the labels of a row have one place, which depends on the row and the number
    of the draw alone. It is uniform among the places inside the volume, along the slices inside
    those that are not empty. A share of the patches has a labelled voxel in its centre, as near as
    the border of the volume lets it be: each labelled voxel is as likely as another.

    Args:
        cases: The case of each row.
        labels: The file of labels of each row.
        cut: How patches are cut.
    """

    def __init__(self, cases: Sequence[Case], labels: Sequence[Path], cut: Cut) -> None:
        self.cases, self.labels, self.cut = cases, labels, cut
        self._kept: dict[tuple[int, int], Sides] = {}

    def __call__(self, row: int, number: int) -> Sides:
        """Returns the first voxel of the patch of a row in a draw."""
        if (row, number) not in self._kept:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[row, number] = self._drawn(row, number)
        return self._kept[row, number]

    def _drawn(self, row: int, number: int) -> Sides:
        case, sides, rng = self.cases[row], self.cut.sides, generator(number, 'patch', row)
        # All lots are drawn in any case, so that the share of centred patches changes no other.
        *lots, lot, chance = rng.random(5)
        if chance < self.cut.foreground and set(case.labels) - {0}:
            there = np.flatnonzero(mapped(self.labels[row]))
            centre = np.unravel_index(there[int(lot * len(there))], case.shape)
            starts = [int(c) - side // 2 for c, side in zip(centre, sides, strict=True)]
        else:
            spans = ((case.first, case.last + 1), (0, case.shape[1]), (0, case.shape[2]))
            free = [max(0, b - a - side) for (a, b), side in zip(spans, sides, strict=True)]
            starts = [a + int(x * (n + 1)) for (a, _), x, n in zip(spans, lots, free, strict=True)]
        ends = zip(starts, case.shape, sides, strict=True)
        z, y, x = (max(0, min(start, whole - side)) for start, whole, side in ends)
        return z, y, x


def patched(
    root: Path,
    cases: Sequence[Case],
    names: Sequence[str],
    labels: str,
    cut: Cut,
    train: bool,
    augment: Callable[[Batch], Batch] | None,
) -> Split:
    """Returns the patches of training cases, or the whole volumes of a split.

    Whole volumes have one size, that of the longest sides among them, and are padded at their ends.

    Args:
        root: The prepared root.
        cases: The cases of the split.
        names: The modalities.
        labels: Name of the files of labels.
        cut: How patches are cut.
        train: Whether rows are patches.
        augment: What training does to them.
    """
    members = [case for case in cases for _ in range(cut.each if train else 1)]

    def files(kind: str) -> list[Path]:
        return [root / case.id / f'{kind}.npy' for case in members]

    place = Places(members, files(labels), cut) if train else None
    sides = cut.sides if train else np.max([case.shape for case in cases], axis=0).tolist()
    ids = [f'{case.id}/{k % cut.each:03d}' if train else case.id for k, case in enumerate(members)]
    return Split(
        inputs={m: Boxes(files(m), sides, True, place) for m in names},
        target=Boxes(files(labels), sides, False, place),
        available=np.array([[has_file(file) for file in files(m)] for m in names]).T,
        ids=np.array(ids),
        groups=np.array([case.id for case in members]),
        augment=augment if train else None,
    )
