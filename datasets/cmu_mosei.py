"""CMU-MOSEI: sentiment from speech, face and words, aligned word by word."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.dataset import Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities, shared
from datasets.common.io.files import fingerprint
from datasets.common.io.labelled import Labelled, check_labelled
from datasets.common.io.paths import check_access
from datasets.common.io.pickles import load_pickle
from datasets.common.io.remembered import remembered
from datasets.common.io.row_contents import Contents, contents
from datasets.common.io.rows import Standardised, moments, spread, varying, working

FILE = 'aligned_50.pkl'
FEATURES = {'audio': 74, 'vision': 35, 'text': 768}
PARTS = {'train': 'train', 'val': 'valid', 'test': 'test'}
CLASSES = ('negative', 'neutral', 'positive')
PADDING = ('mask', 'none')

VERSION = 1
"""Raised when `CMUMOSEI.contents` holds something else in the same file."""


@DATASETS.register_module('cmu_mosei')
class CMUMOSEI(Dataset):
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

    Raises:
        UserError: The file is missing or not as above, would load anything but arrays, a clip is in
            two splits, or the training split lacks a class.
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
    licence = 'research only; features of public videos, released by the CMU MultiComp Lab'
    how_to_get = (
        f'Download MOSEI/Processed/{FILE}, which the README of github.com/thuiar/MMSA links.'
    )
    published_sizes = {'train': 16326, 'val': 1871, 'test': 4659}

    def __init__(
        self,
        *,
        root: str = '',
        padding: Literal['mask', 'none'] = 'mask',
        standardise: bool = False,
        width: int = 48,
        duplicates: Duplicates = 'report',
    ) -> None:
        if not root:
            raise UserError(f'cmu_mosei: expected --data-root FILE: {self.how_to_get}')
        if padding not in PADDING:
            raise unknown('padding of cmu_mosei', padding, PADDING)
        check_access(Path(root))
        self.file = Path(root) / FILE if Path(root).is_dir() else Path(root)
        self.padding, self.standardise = padding, standardise
        self.bad: dict[str, int] = {}
        self.parts = self._read()
        self.splits = {name: self._labelled(name) for name in PARTS}
        check_labelled(self.splits, len(CLASSES), self._where)
        self.real = {name: self._real(name) for name in PARTS}
        frames = self.real['train'].shape[1]
        shapes = [Modality(m, (frames, d + 1), True) for m, d in FEATURES.items()]
        self.task = Task(self.name, 'classification', tuple(shapes), CLASSES, 'accuracy', width)
        labels = {n: (s.ids.tolist(), s.labels.tolist()) for n, s in self.splits.items()}
        self.fingerprint = fingerprint([self.file], labels, padding, standardise, width)
        self.moments = {m: self._moments(m) for m in FEATURES if standardise and m != 'text'}
        constant = (self._constant(m) for m in self.moments)
        shown = {name: set(split.labels.tolist()) for name, split in self.splits.items()}
        self.notes = (
            notes.found(shapes, {n: split.ids for n, split in self.splits.items()}, 'clips'),
            *notes.labels(CLASSES, shown),
            *notes.replaced(self.bad, 'features'),
            *itertools.chain(*constant),
            *self._copies(duplicates),
        )

    def _moments(self, modality: str) -> tuple[np.ndarray, np.ndarray]:
        train = self.parts['train'][modality]
        return moments(train, np.arange(len(train)), self.real['train'])

    def _constant(self, modality: str) -> list[str]:
        """Returns what to say of features that are constant in the training clips."""
        mean, std = self.moments[modality]
        std = spread(mean, std, self.parts['train'][modality].dtype)
        others = (self.parts[name][modality][self.real[name]] for name in ('val', 'test'))
        constant = np.flatnonzero(np.isinf(std)).tolist()
        return notes.constant(modality, constant, varying(mean, std, others))

    def _copies(self, duplicates: Duplicates) -> list[str]:
        splits = {
            name: of_modalities(
                split.ids.tolist(), {m: x.digests for m, x in self.contents[name].items()}
            )
            for name, split in self.splits.items()
        }
        videos = {name: _videos(split.ids.tolist()) for name, split in self.splits.items()}
        return [
            *copies(self.file, splits, duplicates, 'clip'),
            *shared(self.file, videos, duplicates),
        ]

    @functools.cached_property
    def contents(self) -> dict[str, dict[str, Contents]]:
        """Split -> modality -> what its clips hold in the frames that are no padding."""

        def look(_: Path) -> str:
            found: dict[str, dict[str, Contents]] = {}
            for name, part in self.parts.items():
                real = self.real[name]
                there = np.ones(len(real), bool)
                found[name] = {m: contents(part[m], there, real) for m in FEATURES}
            return json.dumps(found)

        # The features are in memory, but it takes long to hash gigabytes.
        (text,) = remembered(f'clips {VERSION} {self.padding}', [self.file], look)
        return {
            name: {m: Contents(*x) for m, x in found.items()}
            for name, found in json.loads(text).items()
        }

    def check(self) -> None:
        """Checks that the features of all splits are finite.

        Raises:
            UserError: They are not.
        """
        for name, found in self.contents.items():
            for m, x in found.items():
                if x.bad is not None:
                    expected = f'finite numbers, found others in row {x.bad}'
                    raise UserError(f'{self._where(name)}/{m}: expected {expected}')

    def _where(self, name: str) -> str:
        return f'{self.file}: {PARTS[name]}'

    def _read(self) -> dict[str, dict[str, Any]]:
        """Returns split -> key -> content of the pickle, for the keys that are used."""
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
                finite = np.isfinite(x)
                self.bad[f'{m} of {name}'] = x.size - int(np.count_nonzero(finite))
                part[m] = np.where(finite, x, 0).astype(working(x.dtype))

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
        inputs: dict[str, Rows] = {m: self._sequences(m, name) for m in FEATURES}
        videos = np.array(_videos(ids.tolist()))
        return Split(inputs, labels, np.ones((len(ids), len(inputs)), bool), ids, clusters=videos)

    def _sequences(self, modality: str, name: str) -> Standardised:
        given = self.moments.get(modality, (np.zeros(1), np.ones(1)))
        x = self.parts[name][modality]
        where = f'{self._where(name)}/{modality}'
        return Standardised(x, np.arange(len(x)), given, self.real[name], where)


def _videos(clips: Sequence[str]) -> list[str]:
    """Returns the videos of clips, whose names are those of their videos with a number."""
    return [clip.partition('$_$')[0] for clip in clips]
