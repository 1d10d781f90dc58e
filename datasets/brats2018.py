"""BraTS 2018: brain tumours in four MRI sequences."""

from __future__ import annotations

from benchmark.registry import DATASETS
from datasets.common.families.brats import Brats


@DATASETS.register_module('brats2018')
class Brats2018(Brats):
    """BraTS 2018 (Menze et al., IEEE TMI 2015; Bakas et al., Scientific Data 2017), 285 cases.

    The recipe is 2-D and ours: slices of 192 x 192 about the centre, ResNet-18 pyramids, 60 epochs
    of Adam with RFNet's rate, decay, schedule and augmentation; RFNet and mmFormer train on 3-D
    crops, so published numbers are not comparable. Dice of WT, TC and ET is taken per volume, over
    all its slices, and averaged over volumes.

    `fold` picks one of three splits. Where the root holds `train1.txt`, `val1.txt` and `test1.txt`
    (case names, one per line; likewise 2 and 3), they are taken: the published lists are no part of
    this project. Else the cases are cut into 199 / 29 / 57, the published sizes, by the hash of
    their names.

    Args:
        root: A root that `datasets/prepare.py brats2018` wrote.
        fold: 1, 2 or 3.
        size: 'HxW' of the slices.
        width: Channels of the encoders' first stage.
        augment: Training turns, mirrors and rescales slices.

    Raises:
        UserError: The root is not as above.
    """

    name = 'brats2018'
    shares = (199, 29, 57)
    how_to_get = (
        'python datasets/prepare.py brats2018 FOLDER TARGET, FOLDER being '
        'MICCAI_BraTS_2018_Data_Training with HGG and LGG'
    )
