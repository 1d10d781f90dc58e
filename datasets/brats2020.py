"""BraTS 2020: brain tumours in four MRI sequences."""

from __future__ import annotations

from benchmark.registry import DATASETS
from datasets.common.families.brats import Brats


@DATASETS.register_module('brats2020')
class Brats2020(Brats):
    """BraTS 2020 (Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017), 369 cases.

    Recipe and splits as `brats2018`, cut into 219 / 50 / 100. It contains the cases of 2018 under
    other names: do not test on one what was trained on the other.

    Args:
        root: A root that `datasets/prepare.py brats2020` wrote.
        fold: 1, 2 or 3.
        size: 'HxW' of the slices.
        width: Channels of the encoders' first stage.
        augment: Training turns, mirrors and rescales slices.

    Raises:
        UserError: The root is not as above.
    """

    name = 'brats2020'
    shares = (219, 50, 100)
    how_to_get = (
        'python datasets/prepare.py brats2020 FOLDER TARGET, FOLDER being '
        'MICCAI_BraTS2020_TrainingData'
    )
