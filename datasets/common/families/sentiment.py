"""Sentiment from sound, face and words: the pickles of features that MMSA releases."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from benchmark.dataset import Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from datasets.common.families.sentiment_masks import of_lengths, of_words, scores
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities, shared
from datasets.common.io.files import fingerprint, where_to_look
from datasets.common.io.labelled import Labelled, check_labelled
from datasets.common.io.paths import check_access
from datasets.common.io.pickles import load_pickle
from datasets.common.io.remembered import remembered
from datasets.common.io.row_contents import Contents, contents
from datasets.common.io.rows import Standardised, moments, spread, varying, working

PARTS = {'train': 'train', 'val': 'valid', 'test': 'test'}
CLASSES = ('negative', 'neutral', 'positive')
PADDING = ('mask', 'none')

VERSION = 1
"""Raised when `Sentiment.contents` holds something else in the same file."""


class Sentiment(Dataset):
    """Base of CMU-MOSEI and CMU-MOSI.

    Args:
        root: The file, or the folder that holds it.
        more: What else changes scores.
        padding: Whether encoders leave out padded frames (`mask`) or take in all (`none`).
        standardise: Whether sound and faces are standardised, per feature.
        width: Half of the number of the encoders' channels.
        duplicates: Whether clips of two splits whose features are equal, and videos with
            clips in two splits, are reported or refused.

    Raises:
        UserError: The file is missing or not as the subclass says, would load anything but arrays,
            a clip is in two splits, or the training split lacks a class.
    """

    features: ClassVar[dict[str, int]]
    """Modality -> number of features of a frame."""
    file_name: str
    """Name of the file in the folder."""
    classes: tuple[str, ...] = CLASSES
    aligned: bool = True
    """Whether all modalities have one frame per word piece."""
    label_key = 'classification_labels'
    """Key of the labels in the file."""
    scored: bool = False
    """Whether the score is predicted, as a regression, rather than classes."""

    def __init__(
        self,
        root: str,
        more: tuple[object, ...],
        *,
        padding: Literal['mask', 'none'] = 'mask',
        standardise: bool = False,
        width: int = 48,
        duplicates: Duplicates = 'report',
    ) -> None:
        if not root:
            raise UserError(f'{self.name}: expected {where_to_look("FILE")}: {self.how_to_get}')
        if padding not in PADDING:
            raise unknown(f'padding of {self.name}', padding, PADDING)
        check_access(Path(root))
        self.file = Path(root) / self.file_name if Path(root).is_dir() else Path(root)
        self.padding, self.standardise = padding, standardise
        self.bad: dict[str, int] = {}
        self.parts = self._read()
        self.splits = {name: self._labelled(name) for name in PARTS}
        check_labelled(self.splits, 1 if self.scored else len(self.classes), self._where)
        self.real = {name: self._real(name) for name in PARTS}
        frames = {m: real.shape[1] for m, real in self.real['train'].items()}
        shapes = [Modality(m, (frames[m], d + 1), True) for m, d in self.features.items()]
        self.task = self._task(tuple(shapes), width)
        labels = {n: (s.ids.tolist(), s.labels.tolist()) for n, s in self.splits.items()}
        self.fingerprint = fingerprint([self.file], labels, padding, standardise, width, *more)
        self.moments = {m: self._moments(m) for m in self.features if standardise and m != 'text'}
        constant = (self._constant(m) for m in self.moments)
        shown = {name: set(split.labels.tolist()) for name, split in self.splits.items()}
        there = {name: self._available(name) for name in PARTS}
        self.notes = (
            notes.found(shapes, {n: split.ids for n, split in self.splits.items()}, 'clips'),
            *([] if self.scored else notes.labels(self.classes, shown)),
            *notes.gaps(self.task.names, there, 'clips'),
            *notes.replaced(self.bad, 'features'),
            *itertools.chain(*constant),
            *self._copies(duplicates),
        )

    def _task(self, modalities: tuple[Modality, ...], width: int) -> Task:
        if not self.scored:
            return Task(self.name, 'classification', modalities, self.classes, 'accuracy', width)
        train = self._target('train')
        return Task(
            self.name,
            'regression',
            modalities,
            ('sentiment',),
            'MAE',
            width,
            scale=((float(train.mean()), float(train.std())),),
            sentiment=True,
        )

    def _target(self, name: str) -> np.ndarray:
        """Returns the scores (N, 1) or the classes (N,) of the clips of a split."""
        if not self.scored:
            return self.splits[name].labels
        return self._scores(name)[:, None].astype(np.float32)

    def _scores(self, name: str) -> np.ndarray:
        where = f'{self._where(name)}/{self.label_key}'
        return scores(self.parts[name][self.label_key], where)

    def _moments(self, modality: str) -> tuple[np.ndarray, np.ndarray]:
        train = self.parts['train'][modality]
        return moments(train, np.arange(len(train)), self.real['train'][modality])

    def _constant(self, modality: str) -> list[str]:
        """Returns what to say of features that are constant in the training clips."""
        mean, std = self.moments[modality]
        std = spread(mean, std, self.parts['train'][modality].dtype)
        others = (self.parts[name][modality][self.real[name][modality]] for name in ('val', 'test'))
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
                there = self._available(name)
                found[name] = {
                    m: contents(part[m], there[:, k], real[m]) for k, m in enumerate(self.features)
                }
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

    @property
    def keys(self) -> list[str]:
        """The keys of a split that are used."""
        lengths = [] if self.aligned else [f'{m}_lengths' for m in self.features if m != 'text']
        masks = ['text_bert', *lengths] if self.padding == 'mask' else []
        return [*self.features, 'id', self.label_key, *masks]

    def _read(self) -> dict[str, dict[str, Any]]:
        """Returns split -> key -> content of the pickle, for the keys that are used."""
        found = load_pickle(self.file)
        parts = {}
        for name, part in PARTS.items():
            if not isinstance(found, dict) or not isinstance(found.get(part), dict):
                kind = sorted(map(str, found)) if isinstance(found, dict) else type(found).__name__
                raise UserError(f'{self.file}: expected a dict with {part!r}, found {kind}')
            for key in self.keys:
                if key not in found[part]:
                    masks = key == 'text_bert' or key.endswith('_lengths')
                    hint = '; padding=none counts all frames' if masks else ''
                    known = unknown('key', key, map(str, found[part]))
                    raise UserError(f'{self._where(name)}: expected {key!r}: {known}{hint}')
            parts[name] = {key: found[part][key] for key in self.keys}
            self._check_features(name, parts[name])
        return parts

    def _check_features(self, name: str, part: dict[str, Any]) -> None:
        """Checks shapes and cleans the values of sound and faces in place."""
        text = getattr(part['text'], 'shape', ())[:2]
        for m, width in self.features.items():
            x = part[m]
            fits = isinstance(x, np.ndarray) and x.dtype.kind == 'f' and len(text) == 2
            shape = text if self.aligned else (*text[:1], *getattr(x, 'shape', ())[1:2])
            if not fits or x.shape != (*shape, width):
                expected = f'floats {(*shape, width)}' if fits else f'floats (N, T, {width})'
                found = f'{x.dtype} {x.shape}' if isinstance(x, np.ndarray) else type(x).__name__
                raise UserError(f'{self._where(name)}/{m}: expected {expected}, found {found}')
            if m != 'text':
                finite = np.isfinite(x)
                self.bad[f'{m} of {name}'] = x.size - int(np.count_nonzero(finite))
                part[m] = np.where(finite, x, 0).astype(working(x.dtype))

    def _labels(self, name: str) -> np.ndarray:
        """Returns the classes (N,) of the clips of a split."""
        labels = np.atleast_1d(self.parts[name][self.label_key])
        if labels.size != len(labels) or labels.dtype.kind not in 'fiu' or (labels % 1).any():
            found = f'{labels.dtype} {labels.shape}'
            where = f'{self._where(name)}/{self.label_key}'
            raise UserError(f'{where}: expected (N,) integers, found {found}')
        return labels.ravel().astype(np.int64)

    def _labelled(self, name: str) -> Labelled:
        part, where = self.parts[name], self._where(name)
        # A score is no class; the other checks of labelled samples are those of a single class.
        labels = self._scores(name).astype(np.int64) * 0 if self.scored else self._labels(name)
        ids = np.array([str(i) for i in np.asarray(part['id']).ravel().tolist()])
        if len(ids) != len(part['text']):
            found = f'{len(ids)} of {len(part["text"])}'
            raise UserError(f'{where}/id: expected a name of every clip, found {found}')
        return Labelled(ids, labels)

    def _real(self, name: str) -> dict[str, np.ndarray]:
        """Returns modality -> (N, T) bool, which frames are no padding."""
        part = self.parts[name]
        shapes = {m: part[m].shape[:2] for m in self.features}
        if self.padding == 'none':
            return {m: np.ones(shape, bool) for m, shape in shapes.items()}
        words = of_words(part['text_bert'], shapes['text'], self._where(name))
        if self.aligned:
            return dict.fromkeys(self.features, words)
        return {
            m: words
            if m == 'text'
            else of_lengths(part[f'{m}_lengths'], shape, f'{self._where(name)}/{m}_lengths')
            for m, shape in shapes.items()
        }

    def _available(self, name: str) -> np.ndarray:
        """Returns (N, M) bool: a clip has a modality of which some frame is no padding."""
        return np.stack([self.real[name][m].any(1) for m in self.features], 1)

    def split(self, name: str) -> Split:
        """Returns a split."""
        if name not in PARTS:
            raise unknown(f'split of {self.name}', name, PARTS)
        ids, target = self.splits[name].ids, self._target(name)
        inputs: dict[str, Rows] = {m: self._sequences(m, name) for m in self.features}
        videos = np.array(_videos(ids.tolist()))
        return Split(inputs, target, self._available(name), ids, clusters=videos)

    def _sequences(self, modality: str, name: str) -> Standardised:
        given = self.moments.get(modality, (np.zeros(1), np.ones(1)))
        x = self.parts[name][modality]
        where = f'{self._where(name)}/{modality}'
        return Standardised(x, np.arange(len(x)), given, self.real[name][modality], where)


def _videos(clips: Sequence[str]) -> list[str]:
    """Returns the videos of clips, whose names are those of their videos with a number."""
    return [clip.partition('$_$')[0] for clip in clips]
