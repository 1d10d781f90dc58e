"""IEMOCAP: emotions from speech, face and words, as features of whole utterances."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.dataset import Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities, shared
from datasets.common.io.files import data_root, fingerprint
from datasets.common.io.labelled import Labelled, check_labelled
from datasets.common.io.optional import package
from datasets.common.io.paths import has_file
from datasets.common.io.pickles import load_npy
from datasets.common.io.remembered import remembered
from datasets.common.io.rows import Standardised, real_frames, spread, working
from datasets.common.io.stored import memory

FEATURES = {
    'audio': ('A/comparE.h5', 130),
    'vision': ('V/denseface.h5', 342),
    'text': ('L/bert_large.h5', 1024),
}
"""Modality -> its file, which maps an utterance to features (T, D), and D."""

STATISTICS = 'A/comparE_mean_std.h5'
FILES = {'train': 'trn', 'val': 'val', 'test': 'tst'}
FOLDS = 10

VERSION = 1
"""Raised when `_look` finds something else in the same file."""


@DATASETS.register_module('iemocap')
class IEMOCAP(Dataset):
    """Emotion of an utterance, one of four, from the features and folds of MMIN.

    The data set is by Busso et al., Language Resources and Evaluation 2008. Features and folds are
    those of MMIN (Zhao, Li & Jin, ACL 2021), which RedCore (Sun et al., AAAI 2024) uses as well:
    ComParE descriptors of sound, DenseNet features of faces, and BERT-large features of words. The
    cross-validation has ten folds, of which the option `fold` picks one; RedCore's released scripts
    run the first fold alone. Sound is standardised by the mean and standard deviation of the fold's
    training frames, which come with the features; faces and words are not standardised.

    The sequences of a modality are padded to the length of its longest training utterance, at most
    to `frames`, and longer ones are cut. Encoders leave padded frames out. The released code pads
    to the longest sequence of a batch, cuts none, and its encoders take in padded frames. Faces and
    words are said to come with 50 and 22 frames always. The files do not mark which of these frames
    are padding, so all of them are taken in, here and in the released code. An utterance without
    frames of a modality lacks that modality. No file states the order of the four classes (happy or
    excited, angry, sad and neutral, by MMIN's convention), so the classes are named by numbers.

    The recipe is RedCore's: 30 epochs at a constant learning rate and 30 in which the rate falls to
    0, Adam without weight decay, and gradients clipped at norm 1. RedCore's code selects the epoch
    by test scores; here the protocol's `selection` does.

    Args:
        root: The folder IEMOCAP_features_2021, with A/, V/, L/ and target/<fold>/.
        fold: Number of the cross-validation fold.
        frames: Greatest number of frames of a sequence.
        width: Half of the number of the encoders' channels; RedCore's encoders have 128.
        duplicates: Whether utterances of two splits whose features are equal, and speakers with
            utterances in two splits, are reported or refused.

    Raises:
        UserError: A file is missing or not as above, an utterance has no features or is in two
            splits, or the training split lacks a class.
    """

    name = 'iemocap'
    recipe = {
        'epochs': 60,
        'batch_size': 128,
        'optimizer': 'Adam',
        'lr': 2e-4,
        'weight_decay': 0.0,
        'schedule': 'hold_linear',
        'warmup': 0.0,
        'clip': 1.0,
    }
    licence = "research only, under USC's release form for IEMOCAP"
    how_to_get = (
        'Request IEMOCAP at sail.usc.edu/iemocap, and download the features '
        'IEMOCAP_features_2021, which the README of github.com/AIM3-RUC/MMIN links.'
    )

    def __init__(
        self,
        *,
        root: str = '',
        fold: Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] = 1,
        frames: int = 200,
        width: int = 64,
        duplicates: Duplicates = 'report',
    ) -> None:
        folder = data_root('iemocap', root, self.how_to_get)
        if not 1 <= fold <= FOLDS:
            raise UserError(f'iemocap: fold: expected 1 to {FOLDS}, found {fold}')
        if frames < 1:
            raise UserError(f'iemocap: frames: expected at least 1, found {frames}')
        self.root, self.fold = folder, fold
        self.splits = {name: self._labelled(name) for name in FILES}
        check_labelled(self.splits, 4, self._target)
        self.frames = {m: min(frames, self._longest(m)) for m in FEATURES}
        self.mean, self.std = self._statistics()
        shapes = [Modality(m, (self.frames[m], d + 1), True) for m, (_, d) in FEATURES.items()]
        classes = tuple(map(str, range(4)))
        self.task = Task(self.name, 'classification', tuple(shapes), classes, 'accuracy', width)
        labels = {n: (s.ids.tolist(), s.labels.tolist()) for n, s in self.splits.items()}
        files = [self.root / f for f in (*(f for f, _ in FEATURES.values()), STATISTICS)]
        self.fingerprint = fingerprint(files, labels, fold, self.frames, width)
        constant = np.flatnonzero(np.isinf(spread(self.mean, self.std, np.float32))).tolist()
        self.notes = (
            notes.found(shapes, {n: split.ids for n, split in self.splits.items()}, 'utterances'),
            *notes.labels(classes, {n: set(s.labels.tolist()) for n, s in self.splits.items()}),
            *self._gaps(),
            *notes.constant('audio', constant, ()),
            *self._copies(duplicates),
        )

    def _gaps(self) -> list[str]:
        """Returns what to say of utterances without frames of some modality."""
        known = [self._looked(file) for file, _ in FEATURES.values()]
        ids = {name: split.ids.tolist() for name, split in self.splits.items()}
        there = {n: np.array([[bool(x[i][0]) for x in known] for i in s]) for n, s in ids.items()}
        return notes.gaps(self.task.names, there, 'utterances')

    def _target(self, name: str, what: str = 'label') -> Path:
        return self.root / 'target' / str(self.fold) / f'{FILES[name]}_{what}.npy'

    def _labelled(self, name: str) -> Labelled:
        """Reads ids, (N,) or (N, 1) of text or bytes, and one-hot labels (N, 4)."""
        file = self._target(name)
        labels = load_npy(file)
        if labels.ndim != 2 or labels.shape[1] != 4 or labels.dtype.kind not in 'fiub':
            found = f'{labels.dtype} {labels.shape}'
            raise UserError(f'{file}: expected one-hot labels (N, 4), found {found}')
        wrong = ~((np.isin(labels, (0, 1)).all(1)) & (labels.sum(1) == 1))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UserError(f'{file}: expected one-hot labels, found {labels[row]} in row {row}')
        file = self._target(name, 'int2name')
        names = load_npy(file)
        if names.size != len(names) or names.dtype.kind not in 'OSU':
            found = f'{names.dtype} {names.shape}'
            raise UserError(f'{file}: expected names (N,) or (N, 1), found {found}')
        ids = [x.decode() if isinstance(x, bytes) else str(x) for x in names.ravel().tolist()]
        return Labelled(np.array(ids), labels.argmax(1).astype(np.int64))

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        """Opens an HDF5 file; errors in reading from it become messages that name the file."""
        h5py, file = package('h5py', 'iemocap'), self.root / name
        if not has_file(file):
            raise UserError(f'{file}: expected a file, found nothing there')
        try:
            with h5py.File(file, 'r') as opened:
                yield opened
        except OSError as error:
            told = str(error).partition('\n')[0]
            raise UserError(f'{file}: cannot be read, broken or no HDF5: {told}') from None

    def _longest(self, modality: str) -> int:
        """Returns the length of the longest training utterance; every utterance needs features."""
        file, width = FEATURES[modality]
        with self._open(file) as features:
            known, longest = set(features), 0
            for name, split in self.splits.items():
                for utterance in split.ids.tolist():
                    if utterance not in known:
                        told = f'expected features of {utterance!r}, of {self._target(name)}'
                        raise UserError(f'{self.root / file}: {told}, found none')
            for utterance in self.splits['train'].ids.tolist():
                longest = max(longest, len(self._shaped(file, features, utterance, width)))
        if not longest:
            raise UserError(f'{self.root / file}: expected frames of training utterances, found 0')
        return longest

    def _copies(self, duplicates: Duplicates) -> list[str]:
        known = {m: self._looked(file) for m, (file, _) in FEATURES.items()}
        splits = {
            name: of_modalities(ids, {m: [found[i][0] for i in ids] for m, found in known.items()})
            for name, ids in ((name, split.ids.tolist()) for name, split in self.splits.items())
        }
        speakers = {name: _speakers(split.ids.tolist()) for name, split in self.splits.items()}
        return [
            *copies(self.root, splits, duplicates, 'utterance'),
            *shared(self.root, speakers, duplicates),
        ]

    def check(self) -> None:
        """Checks that the features of all splits are finite.

        Raises:
            UserError: They are not.
        """
        for file, _ in FEATURES.values():
            found = self._looked(file)
            for split in self.splits.values():
                for utterance in split.ids.tolist():
                    if not found[utterance][1]:
                        raise self._not_finite(file, utterance)

    def _not_finite(self, file: str, utterance: str) -> UserError:
        told = f'expected finite features of {utterance!r}, found others'
        return UserError(f'{self.root / file}: {told}')

    def _looked(self, name: str) -> dict[str, tuple[str, bool]]:
        """Returns utterance -> hash of its features ('' if there are none), and if all are finite.

        The file is read once and what was found is remembered.
        """

        def look(_: Path) -> str:
            with self._open(name) as features:
                every = {u: x for u, x in features.items() if getattr(x, 'shape', ())}
                for utterance, x in every.items():
                    # A small file may declare more numbers than any memory holds.
                    if math.prod(x.shape) * x.dtype.itemsize > memory() / 2:
                        told = f'expected features of {utterance!r} that fit into memory'
                        raise UserError(f'{self.root / name}: {told}, found {x.shape}')
                return json.dumps({u: _look(x[()]) for u, x in every.items()})

        (text,) = remembered(f'utterances {VERSION}', [self.root / name], look)
        return dict(json.loads(text))

    def _shaped(self, file: str, features: Any, utterance: str, width: int) -> Any:
        """Returns an utterance's features (T, D) without reading them, and checks their shape."""
        found = features[utterance]
        shape = getattr(found, 'shape', None)
        if shape is None or len(shape) != 2 or shape[1] != width:
            expected = f'features (T, {width}) of {utterance!r}'
            raise UserError(f'{self.root / file}: expected {expected}, found {shape or "a group"}')
        return found

    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        width, file = FEATURES['audio'][1], self.root / STATISTICS
        with self._open(STATISTICS) as statistics:
            found = []
            for key in ('mean', 'std'):
                path = f'{self.fold}/{key}'
                if path not in statistics:
                    raise UserError(f'{file}: expected {path}, found {", ".join(statistics)}')
                found.append(np.asarray(statistics[path][()], np.float64).reshape(-1))
                if found[-1].shape != (width,) or not np.isfinite(found[-1]).all():
                    shape = found[-1].shape
                    raise UserError(f'{file}: {path}: expected ({width},) numbers, found {shape}')
        return found[0], found[1]

    def split(self, name: str) -> Split:
        """Returns a split, in memory; no features of another split are read."""
        if name not in FILES:
            raise unknown('split of iemocap', name, FILES)
        ids, labels = self.splits[name]
        inputs: dict[str, Rows] = {}
        available = []
        for modality, (file, _) in FEATURES.items():
            values, real = self._frames(modality, ids.tolist())
            given = (self.mean, self.std) if modality == 'audio' else (np.zeros(1), np.ones(1))
            rows, where = np.arange(len(values)), str(self.root / file)
            inputs[modality] = Standardised(values, rows, given, real, where)
            available.append(real.any(1))
        speakers = np.array(_speakers(ids.tolist()))
        return Split(inputs, labels, np.stack(available, 1), ids, clusters=speakers)

    def _frames(self, modality: str, utterances: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features (N, T, D), cut or padded, and which frames are real, (N, T) bool."""
        (file, width), most = FEATURES[modality], self.frames[modality]
        lengths = np.zeros(len(utterances), int)
        with self._open(file) as features:
            kinds = {working(features[utterance].dtype) for utterance in utterances}
            values = np.zeros((len(utterances), most, width), np.result_type(*kinds))
            for row, utterance in enumerate(utterances):
                frames = self._shaped(file, features, utterance, width)[:most]
                if not np.isfinite(frames).all():
                    raise self._not_finite(file, utterance)
                values[row, : len(frames)], lengths[row] = frames, len(frames)
        return values, real_frames(lengths, most)


def _speakers(utterances: Sequence[str]) -> list[str]:
    """Returns who speaks: in 'Ses01F_impro01_M003', of session 1, the man."""
    return [f'{name[:5]}{name.rpartition("_")[2][:1]}' for name in utterances]


def _look(features: np.ndarray) -> tuple[str, bool]:
    found = hashlib.blake2b(features.tobytes(), digest_size=8).hexdigest() if features.size else ''
    return found, features.dtype.kind in 'fiub' and bool(np.isfinite(features).all())
