"""CMU-MOSI: sentiment of opinions from speech, face and words."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from benchmark.errors import unknown
from benchmark.registry import DATASETS
from datasets.common.families.sentiment import CLASSES, Sentiment

FRAMES = ('aligned', 'unaligned')
TARGETS = {
    'three': CLASSES,
    'binary': ('negative', 'not negative'),
    'seven': tuple(f'{k:+d}' if k else '0' for k in range(-3, 4)),
    'score': ('sentiment',),
}
"""Option `target` -> names of the classes, or of the value."""


@DATASETS.register_module('cmu_mosi')
class CMUMOSI(Sentiment):
    """Sentiment of clips in which people review films, by the features of MMSA.

    The data set is by Zadeh et al., IEEE Intelligent Systems 2016. Features and splits come from
    the pickles that MMSA (Mao et al., ACL 2022 demonstrations) releases: COVAREP descriptors of
    sound (5), FACET features of faces (20) and BERT features (768). In `aligned_50.pkl` every
    modality has one frame per word piece; row 1 of `text_bert` marks those that are no padding. In
    `unaligned_50.pkl` sound and faces have frames of their own, of which `audio_lengths` and
    `vision_lengths` say how many are real; a clip without any lacks the modality. Code that a
    pickle might contain is not run.

    A clip has a score from -3 to 3 (`regression_labels`), which is the target, as in the papers: a
    regression whose metrics are MAE, the correlation, and accuracies and F1 of the classes that
    papers count (Acc-2, Acc-7). Methods whose formulas need classes can be trained on them instead:
    `target=three` (below, at or above 0), `binary` (below 0 or not) or `seven` (rounded); their
    accuracy is no published number.

    Descriptors of sound and faces that are not finite become 0, as in MMSA.
    `standardise=true` standardises sound and faces by the training frames; neither MMSA nor MISA
    does. The recipe is that of `cmu_mosei`, RedCore's, with batches of 64 as in the code of MISA
    (Hazarika et al., ACM MM 2020), because only 1,284 clips train. Names of clips are
    `<video>$_$<number>`; the clusters of tests of significance are the videos. The published splits
    are used, of 1,284, 229 and 686 clips.

    The layout of the pickles and the number of training clips were taken from MMSA's documentation
    and code; the sizes of the other splits are those that papers state. No copy was at hand, and
    the pickles of MISA, which it makes with the authors' own kit, are not read.

    Args:
        root: The file, or the folder that holds it.
        frames: Whether the file aligned_50.pkl or unaligned_50.pkl is read.
        target: Whether the score is predicted, or the classes that are made of it.
        **shared: The other options of `Sentiment`.

    Raises:
        UserError: The file is missing or not as above, would load anything but arrays, a clip is in
            two splits, or the training split lacks a class.
    """

    name = 'cmu_mosi'
    features = {'audio': 5, 'vision': 20, 'text': 768}
    label_key = 'regression_labels'
    recipe = {
        'epochs': 20,
        'batch_size': 64,
        'optimizer': 'Adam',
        'lr': 2e-4,
        'weight_decay': 0.0,
        'schedule': 'hold_linear',
        'warmup': 0.0,
        'clip': 1.0,
    }
    licence = 'research only; features of public videos, released by the CMU MultiComp Lab'
    how_to_get = (
        'Download MOSI/Processed/aligned_50.pkl or unaligned_50.pkl, which the README of '
        'github.com/thuiar/MMSA links.'
    )
    published_sizes = {'train': 1284, 'val': 229, 'test': 686}

    def __init__(
        self,
        *,
        root: str = '',
        frames: Literal['aligned', 'unaligned'] = 'aligned',
        target: Literal['score', 'three', 'binary', 'seven'] = 'score',
        **shared: Any,
    ) -> None:
        if frames not in FRAMES:
            raise unknown('frames of cmu_mosi', frames, FRAMES)
        if target not in TARGETS:
            raise unknown('target of cmu_mosi', target, TARGETS)
        self.file_name, self.aligned = f'{frames}_50.pkl', frames == 'aligned'
        self.target, self.classes, self.scored = target, TARGETS[target], target == 'score'
        super().__init__(root, (frames, target), **shared)

    def _labels(self, name: str) -> np.ndarray:
        score = self._scores(name)
        if self.target == 'three':
            return (np.sign(score) + 1).astype(np.int64)
        if self.target == 'binary':
            return (score >= 0).astype(np.int64)
        return (np.round(score) + 3).astype(np.int64)
