"""CMU-MOSEI: sentiment from speech, face and words, aligned word by word."""

from __future__ import annotations

from typing import Any, Literal

from benchmark.errors import unknown
from benchmark.registry import DATASETS
from datasets.common.families.sentiment import Sentiment

FILE = 'aligned_50.pkl'
TARGETS = ('three', 'score')


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

    `target=score` predicts the score of a clip from -3 to 3 (`regression_labels`), as most papers
    on this data set do: a regression whose metrics are MAE, the correlation, and accuracies and F1
    of the classes that papers count (Acc-2, Acc-7).

    The recipe is RedCore's: 10 epochs at a constant learning rate and 10 in which the rate falls to
    0, Adam without weight decay, and gradients clipped at norm 1. RedCore's code selects the epoch
    by test scores, and merges the three classes into two for its scores. Here the protocol selects
    the epoch, and the scores are those of the three classes.

    Args:
        root: The file aligned_50.pkl, or the folder that holds it.
        target: Whether the three classes or the score of a clip are predicted.
        padding: Whether encoders leave out padded frames (`mask`) or take in all 50 (`none`).
        width: Half of the number of the encoders' channels; RedCore's encoders have 96.
        **shared: The other options of `Sentiment`.

    Raises:
        UserError: The file is missing or not as above, would load anything but arrays, a clip is in
            two splits, or the training split lacks a class.
    """

    name = 'cmu_mosei'
    features = {'audio': 74, 'vision': 35, 'text': 768}
    file_name = FILE
    younger = ('target',)
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
    published_sizes = {'train': 16326, 'val': 1871, 'test': 4659}

    def __init__(
        self,
        *,
        root: str = '',
        target: Literal['three', 'score'] = 'three',
        **shared: Any,
    ) -> None:
        if target not in TARGETS:
            raise unknown('target of cmu_mosei', target, TARGETS)
        if target == 'score':
            self.scored, self.label_key = True, 'regression_labels'
        more = ('score',) if self.scored else ()
        super().__init__(root, more, **shared)
