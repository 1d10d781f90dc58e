"""IEMOCAP: emotions from voice, face and words, as features of whole utterances."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io.files import data_root, fingerprint
from datasets.common.io.labelled import Labelled, check_labelled
from datasets.common.io.optional import package
from datasets.common.io.pickles import load_npy
from datasets.common.io.rows import Standardised, real_frames

FEATURES = {
    'audio': ('A/comparE.h5', 130),
    'vision': ('V/denseface.h5', 342),
    'text': ('L/bert_large.h5', 1024),
}
"""Modality -> file, in which utterance -> (T, D), and D."""
STATISTICS = 'A/comparE_mean_std.h5'
FILES = {'train': 'trn', 'val': 'val', 'test': 'tst'}
FOLDS = 10


@DATASETS.register_module('iemocap')
class IEMOCAP(Dataset):
    """Emotion of an utterance, one of four, in the features and folds of MMIN.

    Busso et al., IEMOCAP, Language Resources and Evaluation 2008; features and folds by Zhao, Li &
    Jin, MMIN, ACL 2021, which RedCore (Sun et al., AAAI 2024) shares: ComParE descriptors of sound,
    DenseNet features of faces, BERT-large features of words. Of the ten folds of the
    cross-validation one is run at a time; `dataset` options name it, and RedCore's released scripts
    run the first alone. Sound is standardised by the fold's training frames, whose mean and
    deviation come with the features; the others are taken as they are.

    Each modality is padded to its longest training utterance, at most `frames`, and longer ones
    are cut; encoders leave padding out. The released code pads to the longest of a batch, cuts
    nothing, and attends to padding. Faces and words are said to come with 50 and 22 frames always,
    of which the files do not tell the padded ones: these count as frames, here as there. An
    utterance without frames lacks that modality. The order of the four classes (by MMIN's
    convention happy or excited, angry, sad and neutral) is in no file, so that they are numbered.

    The recipe is RedCore's: 30 epochs at a constant rate and 30 in which it falls to 0, Adam
    without weight decay, gradients clipped at 1. Its code picks the epoch by test scores; here
    that is the protocol's `selection`.

    Args:
        root: The folder IEMOCAP_features_2021, with A/, V/, L/ and target/<fold>/.
        fold: 1 to 10.
        frames: Most frames of a sequence.
        width: Half of the encoders' channels; RedCore's are 128.

    Raises:
        UserError: A file is missing or not as above, an utterance has no features or is in two
            splits, or train lacks a class.
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
        'request IEMOCAP at sail.usc.edu/iemocap; the features IEMOCAP_features_2021 are linked in '
        'the README of github.com/AIM3-RUC/MMIN'
    )

    def __init__(
        self, *, root: str = '', fold: int = 1, frames: int = 200, width: int = 64
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
        """Opens an HDF5 file; whatever cannot be read from it names the file."""
        h5py, file = package('h5py', 'iemocap'), self.root / name
        if not file.is_file():
            raise UserError(f'{file}: expected a file, found nothing there')
        try:
            with h5py.File(file, 'r') as opened:
                yield opened
        except OSError as error:
            told = str(error).partition('\n')[0]
            raise UserError(f'{file}: cannot be read, broken or no HDF5: {told}') from None

    def _longest(self, modality: str) -> int:
        """Returns the most frames of a training utterance; all utterances must have features."""
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

    def _shaped(self, file: str, features: Any, utterance: str, width: int) -> Any:
        """Returns an utterance's features, not read yet, once their shape is right."""
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
        """Returns a split, in memory; no feature of another one is read."""
        if name not in FILES:
            raise unknown('split of iemocap', name, FILES)
        ids, labels = self.splits[name]
        sequences = {m: self._sequences(m, ids.tolist()) for m in FEATURES}
        there = [x.real.any(1) for x in sequences.values()]
        return Split(sequences, labels, np.stack(there, 1), ids)

    def _sequences(self, modality: str, utterances: list[str]) -> Standardised:
        """Reads (N, T, D) and cuts or pads each utterance."""
        (file, width), most = FEATURES[modality], self.frames[modality]
        values = np.zeros((len(utterances), most, width), np.float32)
        lengths = np.zeros(len(utterances), int)
        with self._open(file) as features:
            for row, utterance in enumerate(utterances):
                frames = self._shaped(file, features, utterance, width)[:most]
                if not np.isfinite(frames).all():
                    told = f'expected finite features of {utterance!r}, found others'
                    raise UserError(f'{self.root / file}: {told}')
                values[row, : len(frames)], lengths[row] = frames, len(frames)
        given = (self.mean, self.std) if modality == 'audio' else (np.zeros(1), np.ones(1))
        rows, real = np.arange(len(values)), real_frames(lengths, most)
        return Standardised(values, rows, given, real, str(self.root / file))
