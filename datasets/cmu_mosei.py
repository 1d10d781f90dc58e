"""CMU-MOSEI: sentiment from speech, face and words, aligned word by word."""

from __future__ import annotations

from typing import Literal

from benchmark.errors import unknown
from benchmark.registry import DATASETS
from datasets.common.families.sentiment import Sentiment
from datasets.common.io.copies import Duplicates

FILE = 'aligned_50.pkl'


@DATASETS.register_module('cmu_mosei')
class CMUMOSEI(Sentiment):
    """Sentiment of a clip, negative, neutral or positive, from the aligned features of MMSA.

    The data set is by Zadeh et al., ACL 2018. Features and splits come from the pickle that MMSA
    (Mao et al., ACL 2022 demonstrations) releases and RedCore (Sun et al., AAAI 2024) reads:
    COVAREP descriptors of sound, FACET features of faces, and BERT features, with one frame per
    word piece. Code that the pickle might contain is not run. The whole file is held in memory,
    which takes some gigabytes.

    Row 1 of `text_bert` in the file marks the frames that are no padding; MMSA's models apply it to
    all three modalities. RedCore's released code does not distinguish padded frames, as with
    `padding=none`. Descriptors of sound and faces that are not finite, because nothing could be
    measured, become 0, as in MMSA. Neither MMSA nor RedCore standardises the features;
    `standardise=true` standardises sound and faces by the training frames.

    The recipe is RedCore's: 10 epochs at a constant learning rate and 10 in which the rate falls to
    0, Adam without weight decay, and gradients clipped at norm 1. RedCore's code selects the epoch
    by test scores, and merges the three classes into two for its scores. Here the protocol selects
    the epoch, and the scores are those of the three classes.

    Args:
        root: The file aligned_50.pkl, or the folder that holds it.
        padding: Whether encoders leave out padded frames (`mask`) or take in all 50 (`none`).
        standardise: Whether sound and faces are standardised, per feature.
        width: Half of the number of the encoders' channels; RedCore's encoders have 96.
        duplicates: Whether clips of two splits whose features are equal, and videos with
            clips in two splits, are reported or refused.
        target: The three classes, or the score from -3 to 3 (regression), whose metrics are the
            papers' MAE, correlation, Acc-2 with and without neutral clips, Acc-7 and weighted F1.

    Raises:
        UserError: The file is missing or not as above, would load anything but arrays, a clip is in
            two splits, or the training split lacks a class.
    """

    name = 'cmu_mosei'
    features = {'audio': 74, 'vision': 35, 'text': 768}
    file_name = FILE
    recipe = {
        'epochs': 20,
        'batch_size': 256,
        'optimizer': 'Adam',
        'lr': 2e-4,
        'weight_decay': 0.0,
        'schedule': 'hold_linear',
        'warmup': 0.0,
        'clip': 1.0,
    }
    licence = 'research only; features of public videos, released by the CMU MultiComp Lab'
    how_to_get = (
        f'Download MOSEI/Processed/{FILE}, which the README of github.com/thuiar/MMSA links.'
    )
    younger = ('target',)
    published_sizes = {'train': 16326, 'val': 1871, 'test': 4659}

    def __init__(
        self,
        *,
        root: str = '',
        padding: Literal['mask', 'none'] = 'mask',
        standardise: bool = False,
        width: int = 48,
        duplicates: Duplicates = 'report',
        target: Literal['three', 'regression'] = 'three',
    ) -> None:
        if target not in ('three', 'regression'):
            raise unknown('target of cmu_mosei', target, ('three', 'regression'))
        self.regression = target == 'regression'
        self.label_key = 'regression_labels' if self.regression else 'classification_labels'
        more = (target,) if self.regression else ()
        super().__init__(root, padding, standardise, width, duplicates, more)
