"""A user's own volumes: a folder per case with a file per modality."""

from __future__ import annotations

import re
from pathlib import Path

from benchmark.errors import UserError
from benchmark.registry import DATASETS
from datasets.common.families.volume_files import prepare_cases
from datasets.common.families.volumes import (
    SEGMENTATION,
    SliceOptions,
    Volumes,
    cut,
    listed,
    read_index,
)
from datasets.common.io.files import data_root, lines
from datasets.common.io.images import image_size
from datasets.common.prepare.preparation import Preparation

SUFFIXES = ('.nii', '.nii.gz', '.npy')


@DATASETS.register_module('volumes')
class OwnVolumes(Volumes):
    """Volumes of any modalities with a segmentation, trained by slices and scored by volume.

    `datasets/prepare.py volumes SOURCE TARGET` writes the root from files
    `<case>/<modality>.nii.gz` (or .nii, or .npy with the slices as first axis) and
    `<case>/seg.nii.gz`, whose labels are whole numbers from 0, the background. A modality that a
    case lacks is a gap in the data. Dice is taken of every label, unless the root holds a file
    `regions.txt` that groups labels into regions, one per line: `WT 1 2 3`.

    The root may hold the lists `train1.txt`, `val1.txt` and `test1.txt` of cases. Otherwise 60 % of
    the cases train, 20 % validate and 20 % are tested, chosen by the hash of their names.

    Args:
        root: The root that `datasets/prepare.py` wrote.
        name: Name of the data set in tables and folders; the name of the root by default.
        fold: Number of the split: that in the lists' names, or one that changes the hash.
        size: Height and width in pixels, 'HxW' in multiples of 32, to which slices are cut or
            padded about their centre.
        width: Channels of the encoders' first stage.
        augment: Whether training rotates and mirrors slices and changes their intensity at random.

    Raises:
        UserError: The root is not as above.
    """

    licence = "whatever applies to the user's own data"
    how_to_get = (
        'Put the files of each case into a folder <case>/ with <modality>.nii.gz and seg.nii.gz, '
        'and run python datasets/prepare.py volumes on the folder of cases.'
    )
    recipe = {'epochs': 60, 'batch_size': 16, 'lr': 1e-3}

    def __init__(
        self,
        *,
        root: str = '',
        name: str = '',
        fold: int = 1,
        size: str = '192x192',
        width: int = 16,
        augment: bool = True,
    ) -> None:
        folder = data_root('volumes', root, self.how_to_get)
        self.name = name or folder.resolve().name
        index = read_index(folder)
        cases = [case.id for case in index]
        splits = listed(folder, fold) or cut(cases, fold, (60, 20, 20))
        kinds = {f.stem for case in cases for f in (folder / case).glob('*.npy')}
        modalities = tuple(sorted(kinds - {SEGMENTATION}))
        top = max(case.top for case in index)
        regions = _regions(folder / 'regions.txt', top)
        classes = ('background', *(f'label {k}' for k in range(1, top + 1)))
        options = SliceOptions(size=image_size('volumes', size), width=width, augment=augment)
        super().__init__(folder, splits, modalities, classes, regions, options)

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from a folder of cases."""
        cases: dict[str, dict[str, Path]] = {}
        for file in sorted(work.source.glob('*/*')):
            kind, dot, ending = file.name.partition('.')
            if f'{dot}{ending}' not in SUFFIXES:
                continue
            if not re.fullmatch(r'[\w-]+', kind):
                raise UserError(f'{file}: expected a name of letters, digits, _ and -')
            if kind in cases.setdefault(file.parent.name, {}):
                raise UserError(f'{file}: expected one file of {kind}, found two')
            cases[file.parent.name][kind] = file
        prepare_cases(work, cases)


def _regions(file: Path, top: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns (name, labels) of each region in the file, or a region per label without a file.

    Raises:
        UserError: A line is not a name followed by labels.
    """
    if not file.is_file():
        return tuple((str(k), (k,)) for k in range(1, top + 1))
    regions = []
    for line in lines(file):
        name, *labels = line.split()
        if not labels or not all(k.isdigit() and 0 < int(k) <= top for k in labels):
            raise UserError(f'{file}: expected NAME and labels from 1 to {top}, found {line!r}')
        regions.append((name, tuple(map(int, labels))))
    return tuple(regions)
