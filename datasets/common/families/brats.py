"""What the BraTS data sets have in common."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from benchmark.errors import UserError
from datasets.common.families.volume_files import prepare_cases
from datasets.common.families.volumes import SEGMENTATION, Volumes, cut, listed, read_index
from datasets.common.io.files import data_root
from datasets.common.io.images import image_size
from datasets.common.prepare.preparation import Preparation

MODALITIES = ('flair', 't1ce', 't1', 't2')
CLASSES = ('background', 'necrosis', 'oedema', 'enhancing')
REGIONS = (('WT', (1, 2, 3)), ('TC', (1, 3)), ('ET', (3,)))
"""Whole tumour, tumour core and enhancing tumour."""

TABLE = {0: 0, 1: 1, 2: 2, 4: 3}
"""Labels in the files -> here; 3 has been unused since 2017."""

ODD_MASK = 'W39_1998.09.19_Segm'
"""How one copy of BraTS 2020 names the segmentation of case 355."""


class Brats(Volumes):
    """BraTS, prepared from the official NIfTI files.

    Args:
        root: A prepared root.
        fold: 1, 2 or 3.
        size: 'HxW' of the slices.
        width: Channels of the encoders' first stage.
        augment: Training turns, mirrors and rescales slices.

    Raises:
        UserError: The root is not prepared, or an option is out of range.
    """

    licence = 'research, after registration with the challenge'
    recipe = {
        'epochs': 60,
        'batch_size': 16,
        'optimizer': 'Adam',
        'lr': 2e-4,
        'weight_decay': 1e-4,
        'schedule': 'poly',
        'warmup': 0.0,
    }
    shares: ClassVar[tuple[int, int, int]]

    def __init__(
        self,
        *,
        root: str = '',
        fold: int = 1,
        size: str = '192x192',
        width: int = 32,
        augment: bool = True,
    ) -> None:
        folder = data_root(self.name, root, self.how_to_get)
        if fold not in (1, 2, 3):
            raise UserError(f'{self.name}:fold: expected 1, 2 or 3, found {fold}')
        cases = [case.id for case in read_index(folder)]
        splits = listed(folder, fold) or cut(cases, fold, self.shares)
        options = {'size': image_size(self.name, size), 'width': width, 'augment': augment}
        super().__init__(folder, splits, MODALITIES, CLASSES, REGIONS, options)

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from the official folders of cases."""
        cases: dict[str, dict[str, Path]] = {}
        for file in sorted(work.source.rglob('*.nii*')):
            kind = file.name.partition('.')[0].removeprefix(file.parent.name).lstrip('_')
            if file.name.startswith(ODD_MASK):
                kind = SEGMENTATION
            if kind in (*MODALITIES, SEGMENTATION):
                found = cases.setdefault(file.parent.name, {})
                if kind in found and found[kind].parent != file.parent:
                    raise UserError(f'{file}: expected one case of this name, found two')
                found[kind] = file
        # Official validation cases come without segmentation and serve no purpose here.
        labelled = {name: files for name, files in cases.items() if SEGMENTATION in files}
        prepare_cases(work, labelled, TABLE, MODALITIES)
