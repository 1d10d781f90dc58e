"""A user's own volumes: a folder per case with a file per modality."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from benchmark.dataset import Intake, Unseen
from benchmark.errors import UserError
from benchmark.names import check_modalities
from benchmark.registry import DATASETS
from datasets.common.families.numbered_volumes import is_numbered, prepare_numbered
from datasets.common.families.unseen_volumes import check_part, unseen_volumes, with_arrays
from datasets.common.families.volume_files import Files, prepare_cases
from datasets.common.families.volume_index import INDEX, REGIONS, cut, listed, read_index
from datasets.common.families.volume_patches import Network, cut_of
from datasets.common.families.volumes import (
    SEGMENTATION,
    Regions,
    SliceOptions,
    Volumes,
)
from datasets.common.io.copies import Duplicates
from datasets.common.io.files import data_root, lines
from datasets.common.io.folders import walk_all
from datasets.common.io.images import image_size
from datasets.common.io.nifti import suffix
from datasets.common.io.paths import has_file
from datasets.common.prepare.preparation import Preparation
from datasets.common.prepare.unpacking import unpacked

LAYOUT = f'<case>/<modality>.nii.gz and <case>/{SEGMENTATION}.nii.gz'


@DATASETS.register_module('volumes')
class OwnVolumes(Volumes):
    """Volumes of any modalities with a segmentation, trained by slices and scored by volume.

    `datasets/prepare.py volumes SOURCE TARGET` writes the root from files
    `<case>/<modality>.nii.gz` (or .nii, or .npy with the slices as first axis) and
    `<case>/seg.nii.gz`, whose labels are whole numbers from 0, the background. NIfTI volumes are
    brought to one orientation, and those of a case must lie on one grid; slices are axial. A
    modality that a case lacks is a gap in the data. The command also reads the layout of nnU-Net
    and that of the Medical Segmentation Decathlon, whose `dataset.json` names modalities and
    regions; their cases without labels are left out. Dice is taken of every label that occurs,
    unless the root holds a file `regions.txt` that groups labels into regions, one per line:
    `WT 1 2 3`.

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
        duplicates: Whether cases of two splits whose volumes are equal are reported or refused.
        hd95: Whether the test also measures HD95, the distance of surfaces in millimetres, which
            takes long.
        network: 'pyramid' for slices, or 'unet3d' for volumes, which trains patches and tests whole
            volumes through windows of the same size that overlap by half.
        patch: Sides of the patches in voxels, 'DxHxW' in multiples of 8, slices first.
        patches: Number of patches of a case in an epoch.
        foreground: Share of the patches in whose centre a labelled voxel lies.

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
        duplicates: Duplicates = 'report',
        hd95: bool = False,
        network: Network = 'pyramid',
        patch: str = '80x80x80',
        patches: int = 1,
        foreground: float = 1 / 3,
    ) -> None:
        folder = data_root('volumes', root, self.how_to_get)
        self.name = name or folder.resolve().name
        index = read_index(folder, 'volumes')
        cases = [case.id for case in index]
        splits = listed(folder, fold) or cut(cases, fold, (60, 20, 20))
        kinds = {f.stem for case in cases for f in (folder / case).glob('*.npy')}
        modalities = tuple(sorted(kinds - {SEGMENTATION}))
        found = {label for case in index for label in case.labels}
        if found <= {0}:
            raise UserError(f'{folder}: expected a label above 0 in some case, found none')
        regions = _regions(folder / REGIONS, found - {0})
        # Numbers that no case has are classes, too, so that a class has the number in the files.
        classes = ('background', *(f'label {k}' for k in range(1, max(found) + 1)))
        cut_up = cut_of('volumes', network, size, patch, patches, foreground)
        options = SliceOptions(size=image_size('volumes', size), width=width, augment=augment)
        super().__init__(
            folder, splits, modalities, classes, regions, options, duplicates, hd95, (), cut_up
        )

    @classmethod
    def unseen(cls, root: Path | None, intake: Intake, labelled: bool, part: str) -> Unseen:
        """Opens cases as they are before the preparation, or a prepared root."""
        if root is not None and not has_file(root / INDEX):
            return unseen_volumes(root, intake, labelled, part)
        check_part(intake, part)
        return with_arrays(root, super().unseen(root, intake, labelled, part), intake)

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from a folder of cases, or from the layout of nnU-Net."""
        with unpacked(work) as source:
            if is_numbered(source):
                prepare_numbered(work, source)
            else:
                cls._prepare(work, source)

    @classmethod
    def _prepare(cls, work: Preparation, source: Path) -> None:
        cases: dict[str, Files] = {}
        spelled: dict[str, str] = {SEGMENTATION: SEGMENTATION}
        strange: list[Path] = []
        for file in walk_all(source):
            path = file.relative_to(source)
            kind = file.name[: -len(suffix(file.name))] if suffix(file.name) else ''
            if not kind or any(part.startswith('.') for part in path.parts):
                work.remarks.add('files left out, for they are no volumes', str(path))
            elif len(path.parts) != 2:
                strange.append(path)
                work.remarks.add(f'files left out, for they are not {LAYOUT}', str(path))
            else:
                _check_name(file, kind, spelled)
                if kind in cases.setdefault(file.parent.name, {}):
                    raise UserError(f'{file}: expected one file of {kind}, found two')
                cases[file.parent.name][kind] = file
        if not cases:
            example = str(strange[0]) if strange else 'no volume'
            raise UserError(f'{work.source}: expected {LAYOUT}, found {example}')
        kinds = {kind for files in cases.values() for kind in files}
        if modalities := sorted(kinds - {SEGMENTATION}):
            check_modalities(str(work.source), modalities)
        prepare_cases(work, cases)


def _check_name(file: Path, kind: str, spelled: dict[str, str]) -> None:
    """Checks the name of a modality.

    Args:
        file: A volume, <case>/<modality> with a suffix.
        kind: The modality as the file has it.
        spelled: Lower case -> spelling of the modalities so far; this one is added.

    Raises:
        UserError: The files are named as those of BraTS, or the name cannot be used.
    """
    case = file.parent.name
    if kind.startswith(case) and kind[len(case) :][:1] in ('-', '_', '.'):
        raise UserError(
            f'{file}: expected {LAYOUT}, found a name that repeats the case, as in BraTS; '
            f'rename it to {kind[len(case) + 1 :]}{suffix(file.name)}, and likewise the others'
        )
    if not re.fullmatch(r'[\w-]+', kind):
        raise UserError(f'{file}: expected a name of letters, digits, _ and -, found {kind!r}')
    # Some file systems take T1 and t1 for one name, so that two spellings are no two modalities.
    if (known := spelled.setdefault(kind.lower(), kind)) != kind:
        raise UserError(f'{file}: expected the spelling {known}, as in other files, found {kind}')


def _regions(file: Path, found: Collection[int]) -> Regions:
    """Returns (name, labels) of each region in the file, or a region per label without a file.

    Args:
        file: The file, whether it is there or not.
        found: The labels that occur in some case.

    Raises:
        UserError: A line is not a name followed by labels that occur, or a name is there twice.
    """
    if not has_file(file):
        return tuple((str(k), (k,)) for k in sorted(found))
    regions: dict[str, tuple[int, ...]] = {}
    for line in lines(file):
        name, *labels = line.split()
        if not re.fullmatch(r'\w[\w.+-]*', name):
            raise UserError(
                f'{file}: expected a name of letters, digits, _, ., + and -, found {name!r}'
            )
        # Of a region that never occurs, Dice is 1 for every network that never predicts it.
        if not labels or not all(k.isdecimal() and int(k) in found for k in labels):
            known = ', '.join(map(str, sorted(found)))
            raise UserError(f'{file}: expected NAME and some of the labels {known}, found {line!r}')
        if name in regions:
            raise UserError(f'{file}: expected one line of {name}, found two')
        regions[name] = tuple(map(int, labels))
    return tuple(regions.items())
