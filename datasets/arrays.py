"""A user's own arrays: one .npz file with inputs, targets and splits."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Modality, Task
from benchmark.registry import DATASETS

SPLITS = ('train', 'val', 'test')
CHANNELS = 16
"""An axis no longer than this, beside longer ones, holds an image's channels."""


@DATASETS.register_module('arrays')
class Arrays(Dataset):
    """Any arrays in one .npz file: vectors or images, class labels or label maps.

    The file holds `inputs/<modality>` (N, D), (N, H, W), (N, C, H, W) or (N, H, W, C); `target`
    (N,) or (N, H, W) of integers, 255 being ignored in label maps; `split` (N,) with 0 train,
    1 validation, 2 test; and optionally `available` (N, M) bool in the order of the inputs, for
    modalities that are really absent, and `classes` (K,), their names. Inputs are standardised by
    the training samples that have them, vectors per feature and images per channel.

    Args:
        root: The file.
        name: Name in tables and folders; the file's by default.
        width: Channels of the first stage of the shared encoders.

    Raises:
        UserError: The file, or what a key holds, is not as above.
    """

    licence = "the user's own"
    how_to_get = 'write one .npz with inputs/<modality>, target and split; see the README'

    def __init__(self, *, root: str = '', name: str = '', width: int = 16) -> None:
        if not root:
            raise UserError('arrays: expected --data-root FILE.npz, found none')
        self.file = Path(root)
        self._read()
        self.name = name or self.file.stem
        if '/' in self.name:
            raise UserError(f'arrays: name: expected no path, found {self.name!r}')
        self.fingerprint = _content_hash(self.file, width)
        self.recipe = self._recipe()
        metric = 'mIoU' if self.target.ndim == 3 else 'accuracy'
        kind = 'segmentation' if self.target.ndim == 3 else 'classification'
        shapes = [Modality(m, x.shape[1:]) for m, x in self.inputs.items()]
        self.task = Task(self.name, kind, tuple(shapes), self.classes, metric, width)

    def _read(self) -> None:
        raw = _load(self.file)
        named = {k.partition('/')[2]: v for k, v in raw.items() if k.startswith('inputs/')}
        for key in ('target', 'split'):
            if key not in raw:
                raise UserError(f'{self.file}: expected a key {key!r}: {unknown("key", key, raw)}')
        if not named:
            raise UserError(f'{self.file}: expected keys inputs/<modality>, found {sorted(raw)}')
        self.inputs = {m: self._input(m, x) for m, x in named.items()}
        self.where = self._splits(raw['split'])
        self.target, self.classes = self._target(raw['target'], raw.get('classes'))
        self.available = self._available(raw.get('available'))

    def _fail(self, key: str, expected: str, found: Any) -> UserError:
        return UserError(f'{self.file}: {key}: expected {expected}, found {found}')

    def _input(self, name: str, x: np.ndarray) -> np.ndarray:
        """Returns (N, D) or (N, C, H, W)."""
        if not re.fullmatch(r'[\w-]+', name):
            raise self._fail(f'inputs/{name}', 'a name of letters, digits, _ and -', repr(name))
        # Encoders are torch modules called like their modality.
        if hasattr(nn.ModuleDict(), name):
            raise self._fail(f'inputs/{name}', 'a name that is no torch method', repr(name))
        if x.dtype.kind not in 'fiub' or x.ndim not in (2, 3, 4) or 0 in x.shape:
            raise self._fail(f'inputs/{name}', 'numbers (N, ...) of 2 to 4 axes', _kind(x))
        if x.ndim == 3:
            return x[:, None]
        if x.ndim == 4 and x.shape[3] <= CHANNELS < min(x.shape[1:3]):
            return x.transpose(0, 3, 1, 2)
        return x

    def _splits(self, split: np.ndarray) -> dict[str, np.ndarray]:
        if split.ndim != 1 or split.dtype.kind not in 'fiub' or not np.isin(split, (0, 1, 2)).all():
            raise self._fail('split', '(N,) of 0 train, 1 val, 2 test', _kind(split))
        n = len(split)
        for name, x in self.inputs.items():
            if len(x) != n:
                raise self._fail(f'inputs/{name}', f'{n} samples as in split', len(x))
        where = {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}
        for name, rows in where.items():
            if not len(rows):
                raise self._fail('split', f'some samples of {name} ({SPLITS.index(name)})', 'none')
        return where

    def _target(
        self, target: np.ndarray, classes: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        n = len(next(iter(self.inputs.values())))
        if target.dtype.kind not in 'iub' or target.ndim not in (1, 3) or len(target) != n:
            raise self._fail('target', f'integers ({n},) or ({n}, H, W)', _kind(target))
        if target.ndim == 3:
            for name, x in self.inputs.items():
                if x.shape[2:] != target.shape[1:]:
                    raise self._fail(f'inputs/{name}', f'images of {target.shape[1:]}', x.shape)
        return target, self._classes(target, classes)

    def _classes(self, target: np.ndarray, classes: np.ndarray | None) -> tuple[str, ...]:
        if classes is not None and classes.ndim != 1:
            raise self._fail('classes', '(K,) names', _kind(classes))
        labels = np.unique(target)
        labels = labels[labels != IGNORE] if target.ndim == 3 else labels
        if not len(labels):
            raise self._fail('target', 'some labelled pixel', f'{IGNORE} everywhere')
        # The loss ignores label 255 everywhere.
        count = min(int(labels[-1]) + 1, IGNORE) if classes is None else len(classes)
        if labels[0] < 0 or labels[-1] >= count:
            raise self._fail('target', f'labels 0 to {count - 1}', f'{labels[0]} to {labels[-1]}')
        return tuple(map(str, range(count) if classes is None else classes))

    def _available(self, given: np.ndarray | None) -> np.ndarray:
        shape = (len(self.target), len(self.inputs))
        if given is None:
            given = np.ones(shape, bool)
        truth = given.dtype.kind in 'fiub' and np.isin(given, (0, 1)).all()
        if given.shape != shape or not truth:
            raise self._fail('available', f'bool {shape}', _kind(given))
        available = given.astype(bool)
        for column, (name, x) in enumerate(self.inputs.items()):
            bad = available[:, column] & ~np.isfinite(x.reshape(len(x), -1)).all(1)
            if bad.any():
                row = int(np.flatnonzero(bad)[0])
                raise self._fail(
                    f'inputs/{name}',
                    'finite numbers where available is true',
                    f'others in row {row}',
                )
            if not available[self.where['train'], column].any():
                raise self._fail(f'inputs/{name}', 'some training sample that has it', 'none')
        return available

    def _recipe(self) -> dict[str, Any]:
        """Batches of a quarter of the training set at most; about 1,500 steps, 20 to 60 epochs."""
        samples = len(self.where['train'])
        batch = int(np.clip(samples // 4, 2, 64))
        epochs = int(np.clip(1500 * batch // samples, 20, 60))
        return {'epochs': epochs, 'batch_size': batch, 'lr': 2e-3, 'weight_decay': 0.05}

    def split(self, name: str) -> Split:
        """Returns a split, standardised; of the others only the training inputs are read."""
        if name not in self.where:
            raise unknown(f'split of {self.name}', name, SPLITS)
        rows = self.where[name]
        return Split(
            inputs={m: self._standardised(m, k, rows) for k, m in enumerate(self.inputs)},
            target=self.target[rows],
            available=self.available[rows],
            ids=np.array([f'row-{row}' for row in rows]),
        )

    def _standardised(self, name: str, column: int, rows: np.ndarray) -> np.ndarray:
        x, train = self.inputs[name], self.where['train']
        known = x[train[self.available[train, column]]].astype(np.float64)
        axes = (0, *range(2, x.ndim))
        mean, std = known.mean(axes, keepdims=True), known.std(axes, keepdims=True)
        return ((x[rows] - mean) / np.where(std > 0, std, 1)).astype(np.float32)


def _load(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise UserError(f'{file}: expected an .npz file, found nothing there')
    if not zipfile.is_zipfile(file):
        raise UserError(f'{file}: expected an .npz file, found another format')
    with np.load(file, allow_pickle=False) as raw:
        return {key: _array(file, raw, key) for key in raw.files}


def _array(file: Path, raw: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        found = raw[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f'{file}: {key}: cannot be read without pickles: {error}') from None
    if not isinstance(found, np.ndarray):
        raise UserError(f'{file}: {key}: expected an array, found a file of another kind')
    return found


def _content_hash(file: Path, width: int) -> str:
    digest = hashlib.sha256(f'{width}/'.encode())
    with file.open('rb') as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _kind(x: np.ndarray) -> str:
    return f'{x.dtype} {x.shape}'
