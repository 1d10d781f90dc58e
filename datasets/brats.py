"""BraTS 2018, 2020, 2021, 2023 and 2024: brain tumours in four MRI sequences."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from benchmark.dataset import Intake, Unseen
from benchmark.errors import UserError
from benchmark.registry import DATASETS
from datasets.common.families.unseen_volumes import check_part, unseen_volumes, with_arrays
from datasets.common.families.volume_files import Files, prepare_cases
from datasets.common.families.volume_index import INDEX, cut, listed, read_index
from datasets.common.families.volume_patches import Network, cut_of
from datasets.common.families.volumes import SEGMENTATION, Regions, SliceOptions, Volumes
from datasets.common.io.copies import Duplicates
from datasets.common.io.files import data_root
from datasets.common.io.folders import walk_all
from datasets.common.io.images import image_size
from datasets.common.io.nifti import suffix
from datasets.common.io.paths import has_file
from datasets.common.prepare.preparation import Preparation
from datasets.common.prepare.unpacking import unpacked

MODALITIES = ('flair', 't1ce', 't1', 't2')
CLASSES = ('background', 'necrosis', 'oedema', 'enhancing')
REGIONS: Regions = (('WT', (1, 2, 3)), ('TC', (1, 3)), ('ET', (3,)))
"""Whole tumour, tumour core and enhancing tumour."""

TABLE = {0: 0, 1: 1, 2: 2, 4: 3}
"""Label in the official files -> label in the prepared root; label 3 is unused in 2017 to 2021."""

SAME = {0: 0, 1: 1, 2: 2, 3: 3}
"""The same since 2023, when the enhancing tumour became label 3."""

OFFICIAL = {m: m for m in MODALITIES}
"""Word in the names of the official files -> modality."""

RENAMED = {'t2f': 'flair', 't1c': 't1ce', 't1n': 't1', 't2w': 't2'}
"""The same since 2023: T2-FLAIR, T1 with contrast agent, native T1 and T2-weighted."""

NECROSIS, ENHANCING = 1, 3
"""Labels in the prepared root."""

ODD_MASK = 'W39_1998.09.19_Segm'
"""The name of the segmentation of case 355 in one copy of BraTS 2020."""


class Brats(Volumes):
    """The BraTS data sets, prepared from the official NIfTI files.

    Args:
        root: The root that `datasets/prepare.py` wrote.
        fold: Number of the split.
        size: Height and width of the slices in pixels, 'HxW', in multiples of 32.
        width: Channels of the encoders' first stage.
        augment: Whether training rotates and mirrors slices and changes their intensity at random.
        duplicates: Whether cases of two splits whose volumes are equal are reported or refused.
        hd95: Whether the test also measures HD95, the distance of surfaces in millimetres, which
            takes long.
        et_rule: In validation and test, enhancing tumour of which fewer voxels are predicted in a
            case counts as necrosis; 0 is without this rule. Papers on BraTS take 500. Choose it by
            validation scores: what the test shows must not choose it.
        network: 'pyramid' for slices, or 'unet3d' for volumes, which trains patches and tests whole
            volumes through windows of the same size that overlap by half.
        patch: Sides of the patches in voxels, 'DxHxW' in multiples of 8, slices first.
        patches: Number of patches of a case in an epoch.
        foreground: Share of the patches in whose centre a labelled voxel lies.

    Raises:
        UserError: The root is not prepared, or an option is out of range.
    """

    younger = (*Volumes.younger, 'et_rule')
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
    table: ClassVar[dict[int, int]] = TABLE
    words: ClassVar[dict[str, str]] = OFFICIAL
    joint: ClassVar[str] = '_'
    classes: ClassVar[tuple[str, ...]] = CLASSES
    regions: ClassVar[Regions] = REGIONS

    def __init__(
        self,
        *,
        root: str = '',
        fold: Literal[1, 2, 3] = 1,
        size: str = '192x192',
        width: int = 32,
        augment: bool = True,
        duplicates: Duplicates = 'report',
        hd95: bool = False,
        et_rule: int = 0,
        network: Network = 'pyramid',
        patch: str = '80x80x80',
        patches: int = 1,
        foreground: float = 1 / 3,
    ) -> None:
        folder = data_root(self.name, root, self.how_to_get)
        if fold not in (1, 2, 3):
            raise UserError(f'{self.name}:fold: expected 1, 2 or 3, found {fold}')
        if et_rule < 0:
            expected = '0 (off) or a number of voxels'
            raise UserError(f'{self.name}:et_rule: expected {expected}, found {et_rule}')
        fewest = (ENHANCING, et_rule, NECROSIS) if et_rule else ()
        cases = [case.id for case in read_index(folder, self.name)]
        splits = listed(folder, fold) or cut(cases, fold, self.shares, self.patient)
        cut_up = cut_of(self.name, network, size, patch, patches, foreground)
        options = SliceOptions(size=image_size(self.name, size), width=width, augment=augment)
        named = MODALITIES, self.classes, self.regions
        super().__init__(folder, splits, *named, options, duplicates, hd95, fewest, cut_up)

    @classmethod
    def unseen(cls, root: Path | None, intake: Intake, labelled: bool, part: str) -> Unseen:
        """Opens official folders of cases, or a prepared root; labels are the official ones."""
        if root is not None and not has_file(root / INDEX):
            return unseen_volumes(root, intake, labelled, part, cls.table, cls.words)
        check_part(intake, part)
        return with_arrays(root, super().unseen(root, intake, labelled, part), intake)

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the root from the official folders of cases, or from archives of them."""
        with unpacked(work) as source:
            cls._prepare(work, source)

    @classmethod
    def _prepare(cls, work: Preparation, source: Path) -> None:
        cases: dict[str, Files] = {}
        others: list[Path] = []
        for file in walk_all(source):
            if not suffix(file.name).startswith('.nii'):
                work.remarks.add('files left out, for they are no NIfTI files', str(file))
                continue
            kind = cls._kind(file)
            if not kind:
                others.append(file)
                continue
            found = cases.setdefault(file.parent.name, {})
            if kind in found:
                both = f'{found[kind]} and {file}'
                raise UserError(f'case {file.parent.name}: expected one {kind}, found {both}')
            found[kind] = file
        kinds = ', '.join((*cls.words, SEGMENTATION))
        names = f'<case>/<case>{cls.joint}KIND.nii.gz with KIND {kinds}'
        if not cases:
            example = str(others[0].relative_to(source)) if others else 'no NIfTI file'
            raise UserError(f'{work.source}: expected {names}, found {example}')
        for file in others:
            work.remarks.add(f'files left out, for they are not {names}', str(file))
        # The official validation cases have no segmentation, so they can neither train nor test.
        labelled = {name: files for name, files in cases.items() if SEGMENTATION in files}
        for name in cases.keys() - labelled:
            work.remarks.add(f'cases left out, for they have no {SEGMENTATION}', name)
        if not labelled:
            raise UserError(f'{work.source}: expected {SEGMENTATION} of some case, found none')
        prepare_cases(work, labelled, cls.table, MODALITIES)

    @classmethod
    def _kind(cls, file: Path) -> str:
        """Returns the modality of an official file, 'seg', or '' for another file."""
        if file.name.startswith(ODD_MASK):
            return SEGMENTATION
        name = file.name[: -len(suffix(file.name))]
        word = name.removeprefix(file.parent.name).lstrip(cls.joint)
        return SEGMENTATION if word == SEGMENTATION else cls.words.get(word, '')


@DATASETS.register_module('brats2018')
class Brats2018(Brats):
    """BraTS 2018 (Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017), 285 cases.

    With network=unet3d 3-D patches are trained, for 300 epochs with 2 patches in a step, as in
    RFNet's code. Otherwise the recipe is this project's own and works on 2-D slices: slices of
    192 x 192 pixels about the centre, ResNet-18 pyramids, and 60 epochs of Adam with RFNet's
    learning rate, weight decay, schedule and augmentation. RFNet and mmFormer train on 3-D crops,
    so the numbers that they publish are not comparable with those of slices. Dice of WT, TC and ET
    is taken per volume, over all slices of the volume, and averaged over volumes.

    The option `fold` picks one of three splits. Where the root holds the lists `train1.txt`,
    `val1.txt` and `test1.txt` (one case per line; likewise for folds 2 and 3), they are the split:
    this project does not contain the published lists. Otherwise the cases are divided into
    199 / 29 / 57, the published sizes, by the hash of their names.
    """

    name = 'brats2018'
    shares = (199, 29, 57)
    how_to_get = (
        'Register with the BraTS challenge, download MICCAI_BraTS_2018_Data_Training, which holds '
        'HGG and LGG, and run python datasets/prepare.py brats2018 on that folder.'
    )


@DATASETS.register_module('brats2020')
class Brats2020(Brats):
    """BraTS 2020 (Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017), 369 cases.

    The recipe and the rules of splitting are those of `brats2018`; the published sizes are
    219 / 50 / 100. BraTS 2020 contains the cases of BraTS 2018 under other names: a network that
    was trained on one of them must not be tested on the other.
    """

    name = 'brats2020'
    shares = (219, 50, 100)
    how_to_get = (
        'Register with the BraTS challenge, download MICCAI_BraTS2020_TrainingData, and run '
        'python datasets/prepare.py brats2020 on that folder.'
    )


@DATASETS.register_module('brats2021')
class Brats2021(Brats):
    """BraTS 2021 (Baid et al., arXiv:2107.02314, 2021), 1251 cases.

    The recipe is that of `brats2018`. The papers of this field have no split of these cases in
    common. The option `fold` picks one of three divisions into 70 % for training, 10 % for
    validation and 20 % for the test by the hash of the cases' names; the lists `train1.txt`,
    `val1.txt` and `test1.txt` in the root replace it, as in `brats2018`. The names of the cases do
    not tell which of them are of one patient. BraTS 2021 contains cases of the earlier years under
    other names: a network that was trained on one of them must not be tested on the other.
    """

    name = 'brats2021'
    shares = (70, 10, 20)
    how_to_get = (
        'Register with the RSNA-ASNR-MICCAI BraTS 2021 challenge, download its training data, '
        'BraTS2021_00000 and the other folders of cases, and run python datasets/prepare.py '
        'brats2021 on the folder that holds them.'
    )


class _ByPatient(Brats):
    """BraTS since 2023, whose names of cases tell the patient: BraTS-GLI-<patient>-<time>."""

    shares = (70, 10, 20)
    table = SAME
    words = RENAMED
    joint = '-'

    def patient(self, case: str) -> str:
        """Returns the name of a case without its last number, that of the point in time."""
        return case.rpartition('-')[0] or case


@DATASETS.register_module('brats2023')
class Brats2023(_ByPatient):
    """The adult gliomas of BraTS 2023 (Baid et al., arXiv:2107.02314, 2021), 1251 cases.

    The training cases are those of BraTS 2021 with other names. The files `t2f`, `t1c`, `t1n` and
    `t2w` are the modalities `flair`, `t1ce`, `t1` and `t2` of the other years, and the enhancing
    tumour has label 3 in the files instead of 4. The recipe is that of `brats2018`.

    The papers of this field have no split of these cases in common. The option `fold` picks one of
    three divisions of the *patients* into 70 % for training, 10 % for validation and 20 % for the
    test by the hash of their names: some patients were scanned more than once, as
    `BraTS-GLI-00008-000` and `BraTS-GLI-00008-001`, and no patient is in two splits. Tests of
    significance resample patients. Lists in the root replace the division, as in `brats2018`.
    """

    name = 'brats2023'
    how_to_get = (
        'Register with the BraTS 2023 challenge, download '
        'ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData, which holds BraTS-GLI-00000-000 and the '
        'other folders of cases, and run python datasets/prepare.py brats2023 on that folder.'
    )


@DATASETS.register_module('brats2024')
class Brats2024(_ByPatient):
    """The gliomas after treatment of BraTS 2024 (de Verdier et al., arXiv:2405.18368, 2024).

    Names, sequences and split are as in `brats2023`. Label 4 is the resection cavity, a region of
    its own beside the three of the other years (`RC`): the mean Dice is that of four regions.
    Most patients were scanned more than once.
    """

    name = 'brats2024'
    table: ClassVar[dict[int, int]] = {**SAME, 4: 4}
    classes = (*CLASSES, 'cavity')
    regions = (*REGIONS, ('RC', (4,)))
    how_to_get = (
        'Register with the BraTS 2024 challenge, download the training data of the task GLI '
        '(adult glioma after treatment), BraTS-GLI-00005-100 and the other folders of cases, and '
        'run python datasets/prepare.py brats2024 on the folder that holds them.'
    )
