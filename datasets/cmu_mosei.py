"""CMU-MOSEI: sentiment from voice, face and words, aligned word by word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io.files import fingerprint
from datasets.common.io.labelled import Labelled, check_labelled
from datasets.common.io.pickles import load_pickle
from datasets.common.io.rows import Standardised, moments

FILE = 'aligned_50.pkl'
FEATURES = {'audio': 74, 'vision': 35, 'text': 768}
PARTS = {'train': 'train', 'val': 'valid', 'test': 'test'}
CLASSES = ('negative', 'neutral', 'positive')
PADDING = ('mask', 'none')


@DATASETS.register_module('cmu_mosei')
class CMUMOSEI(Dataset):
    """Sentiment of a clip, negative, neutral or positive, in the aligned features of MMSA.

    Zadeh et al., ACL 2018; features and splits in the pickle that MMSA (Mao et al., ACL 2022
    demonstrations) releases and RedCore (Sun et al., AAAI 2024) reads: COVAREP descriptors of
    sound, FACET features of faces and BERT features, one frame per word piece. The file is read
    without running what it may ask for, and held in memory as a whole (some gigabytes).

    Which frames are padding the file says in `text_bert`, row 1, as MMSA's models read it for all
    three modalities; RedCore's released code takes no notice (`padding=none`). Descriptors of sound
    and faces that are not finite, where nothing could be measured, become 0, as in MMSA.
    Nothing is standardised, as in both; `standardise=true` does, over the training frames.

    The recipe is RedCore's: 10 epochs at a constant rate and 10 in which it falls to 0, Adam
    without weight decay, gradients clipped at 1. Its code picks the epoch by test scores and maps
    the three classes to two for its scores; here the tables show the three.

    Args:
        root: The file aligned_50.pkl or its folder.
        padding: 'mask' leaves out padded frames, 'none' counts all 50.
        standardise: Standardise sound and faces, per feature.
        width: Half of the encoders' channels; RedCore's are 96 here.

    Raises:
        UserError: The file is missing or not as above, would load anything but arrays, a clip is in
            two splits, or train lacks a class.
    """

    name = 'cmu_mosei'
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
    licence = 'research only; features of public videos by the CMU MultiComp Lab'
    how_to_get = f'MOSEI/Processed/{FILE}, linked in the README of github.com/thuiar/MMSA'
    published_sizes = {'train': 16326, 'val': 1871, 'test': 4659}

    def __init__(
        self,
        *,
        root: str = '',
        padding: str = 'mask',
        standardise: bool = False,
        width: int = 48,
    ) -> None:
        if not root:
            raise UserError(f'cmu_mosei: expected --data-root FILE: {self.how_to_get}')
        if padding not in PADDING:
            raise unknown('padding of cmu_mosei', padding, PADDING)
        self.file = Path(root) / FILE if Path(root).is_dir() else Path(root)
        self.padding, self.standardise = padding, standardise
        self.parts = self._read()
        self.splits = {name: self._labelled(name) for name in PARTS}
        check_labelled(self.splits, len(CLASSES), self._where)
        self.real = {name: self._real(name) for name in PARTS}
        frames = self.real['train'].shape[1]
        shapes = [Modality(m, (frames, d + 1), True) for m, d in FEATURES.items()]
        self.task = Task(self.name, 'classification', tuple(shapes), CLASSES, 'accuracy', width)
        labels = {n: (s.ids.tolist(), s.labels.tolist()) for n, s in self.splits.items()}
        self.fingerprint = fingerprint([self.file], labels, padding, standardise, width)

    def _where(self, name: str) -> str:
        return f'{self.file}: {PARTS[name]}'

    def _read(self) -> dict[str, dict[str, Any]]:
        """Returns split -> key -> what is used of the pickle; the rest is let go."""
        found = load_pickle(self.file)
        keys = [*FEATURES, 'id', 'classification_labels']
        keys += ['text_bert'] if self.padding == 'mask' else []
        parts = {}
        for name, part in PARTS.items():
            if not isinstance(found, dict) or not isinstance(found.get(part), dict):
                kind = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
                raise UserError(f'{self.file}: expected a dict with {part!r}, found {kind}')
            for key in keys:
                if key not in found[part]:
                    hint = '; padding=none counts all frames' if key == 'text_bert' else ''
                    known = unknown('key', key, map(str, found[part]))
                    raise UserError(f'{self._where(name)}: expected {key!r}: {known}{hint}')
            parts[name] = {key: found[part][key] for key in keys}
            self._check_features(name, parts[name])
        return parts

    def _check_features(self, name: str, part: dict[str, Any]) -> None:
        """Checks shapes and cleans the values of sound and faces in place."""
        shape = getattr(part['text'], 'shape', ())[:2]
        for m, width in FEATURES.items():
            x = part[m]
            fits = isinstance(x, np.ndarray) and x.dtype.kind == 'f' and len(shape) == 2
            if not fits or x.shape != (*shape, width):
                expected = f'floats {(*shape, width)}' if fits else f'floats (N, T, {width})'
                found = f'{x.dtype} {x.shape}' if isinstance(x, np.ndarray) else type(x).__name__
                raise UserError(f'{self._where(name)}/{m}: expected {expected}, found {found}')
            if m != 'text':
                part[m] = np.where(np.isfinite(x), x, 0).astype(np.float32)

    def _labelled(self, name: str) -> Labelled:
        part, where = self.parts[name], self._where(name)
        labels = np.atleast_1d(part['classification_labels'])
        if labels.size != len(labels) or labels.dtype.kind not in 'fiu' or (labels % 1).any():
            found = f'{labels.dtype} {labels.shape}'
            raise UserError(f'{where}/classification_labels: expected (N,) integers, found {found}')
        ids = np.array([str(i) for i in np.asarray(part['id']).ravel().tolist()])
        if len(ids) != len(part['text']):
            found = f'{len(ids)} of {len(part["text"])}'
            raise UserError(f'{where}/id: expected a name of every clip, found {found}')
        return Labelled(ids, labels.ravel().astype(np.int64))

    def _real(self, name: str) -> np.ndarray:
        """Returns (N, T) bool, which frames are no padding."""
        part = self.parts[name]
        shape = part['text'].shape[:2]
        if self.padding == 'none':
            return np.ones(shape, bool)
        tokens = np.asarray(part['text_bert'])
        if tokens.shape != (shape[0], 3, shape[1]) or not np.isin(tokens[:, 1], (0, 1)).all():
            expected = f'{(shape[0], 3, shape[1])} with 0 or 1 in [:, 1]'
            found = f'{tokens.dtype} {tokens.shape}'
            raise UserError(f'{self._where(name)}/text_bert: expected {expected}, found {found}')
        real = tokens[:, 1] == 1
        empty = np.flatnonzero(~real.any(1))
        if len(empty):
            expected = 'a word in every clip'
            raise UserError(
                f'{self._where(name)}/text_bert: expected {expected}, found none in row {empty[0]}'
            )
        return real

    def split(self, name: str) -> Split:
        """Returns a split."""
        if name not in PARTS:
            raise unknown('split of cmu_mosei', name, PARTS)
        ids, labels = self.splits[name]
        inputs = {m: self._sequences(m, name) for m in FEATURES}
        return Split(inputs, labels, np.ones((len(ids), len(inputs)), bool), ids)

    def _sequences(self, modality: str, name: str) -> Standardised:
        train = self.parts['train'][modality]
        given = np.zeros(1), np.ones(1)
        if self.standardise and modality != 'text':
            given = moments(train, np.arange(len(train)), self.real['train'])
        x = self.parts[name][modality]
        where = f'{self._where(name)}/{modality}'
        return Standardised(x, np.arange(len(x)), given, self.real[name], where)
