"""A user's own arrays: an .npz file or a folder of .npy files with inputs, targets and splits."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmark.dataset import Dataset, Rows, Split
from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Modality, Task
from benchmark.registry import DATASETS
from datasets.common.io.rows import Chosen, Standardised, moments, parts, real_frames
from datasets.common.io.stored import content_hash, load

SPLITS = ('train', 'val', 'test')
KINDS = {'vector': (2,), 'sequence': (3,), 'image': (3, 4)}
"""Kind of an input -> the numbers of axes that its array may have, the samples' axis included."""
OPTIONAL = ('inputs', 'available', 'classes', 'kind', 'length')
"""Keys, or their first parts, beside `target` and `split`; similar keys are taken for misspelt."""

CHANNELS = 16
"""The last axis of an image is that of channels if it is no longer than this and others are."""


@DATASETS.register_module('arrays')
class Arrays(Dataset):
    """Any arrays: vectors, sequences or images, with class labels or label maps.

    The arrays are in one .npz file, or in a folder with one .npy file per key, such as
    `inputs/rgb.npy` for the key `inputs/rgb`. A folder's arrays stay on disk: opening the data set
    reads the labels and, in parts, the training inputs; training reads the rows that it needs.
    These keys must exist:

    - `inputs/<modality>`: (N, D), (N, T, D), (N, H, W), (N, C, H, W) or (N, H, W, C);
    - `target`: integers (N,), or label maps (N, H, W) in which 255 is ignored and beside which all
      inputs are images of the same size;
    - `split`: (N,), 0 for training, 1 for validation and 2 for test.

    These keys may exist:

    - `kind/<modality>`: 'vector', 'sequence' or 'image'; an input of three axes is taken as an
      image unless its kind is 'sequence';
    - `length/<modality>`: (N,), how many of a sequence's T frames are no padding, at least 1;
    - `available`: (N, M) bool, which modalities a sample has, in the order of the inputs (by name
      in a folder);
    - `classes`: (K,), the names of the classes.

    Inputs are standardised by the training samples that have them: vectors per feature, sequences
    per feature over the frames that are no padding, and images per channel.

    Args:
        root: The file or folder.
        name: Name of the data set in tables and folders; the name of the root by default.
        width: Channels of the encoders' first stage.

    Raises:
        UserError: The file, or the content of a key, is not as above. In a folder, values that are
            not finite are reported when they are read.
    """

    licence = "whatever applies to the user's own data"
    how_to_get = (
        'Save inputs/<modality>, target and split in one .npz file or as .npy files in one folder.'
    )

    def __init__(self, *, root: str = '', name: str = '', width: int = 16) -> None:
        if not root:
            raise UserError('arrays: expected --data-root FILE.npz or FOLDER, found none')
        self.file = Path(root)
        self.streams = self.file.is_dir()
        self._moments: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        raw = load(self.file)
        self._read(raw)
        self.name = name or (self.file.resolve().name if self.streams else self.file.stem)
        if '/' in self.name:
            raise UserError(f'arrays: name: expected no path, found {self.name!r}')
        self.fingerprint = content_hash(self.file, raw, width)
        self.recipe = self._recipe()
        metric = 'mIoU' if self.target.ndim == 3 else 'accuracy'
        kind = 'segmentation' if self.target.ndim == 3 else 'classification'
        shapes = tuple(self._modality(m, x) for m, x in self.inputs.items())
        self.task = Task(self.name, kind, shapes, self.classes, metric, width)

    def _read(self, raw: dict[str, np.ndarray]) -> None:
        named = {k.partition('/')[2]: v for k, v in raw.items() if k.startswith('inputs/')}
        for key in ('target', 'split'):
            if key not in raw:
                raise UserError(f'{self.file}: expected a key {key!r}: {unknown("key", key, raw)}')
        if not named:
            raise UserError(f'{self.file}: expected keys inputs/<modality>, found {sorted(raw)}')
        self._check_keys(raw, named)
        self.kinds = {m: self._kind(m, x, raw.get(f'kind/{m}')) for m, x in named.items()}
        self.inputs = {m: self._input(m, x) for m, x in named.items()}
        self.where = self._splits(np.asarray(raw['split']))
        self.real = {m: self._real(m, raw.get(f'length/{m}')) for m in named}
        self.target, self.classes = self._target(raw['target'], raw.get('classes'))
        self.available = self._available(raw.get('available'))

    def _fail(self, key: str, expected: str, found: Any) -> UserError:
        return UserError(f'{self.file}: {key}: expected {expected}, found {found}')

    def _check_keys(self, raw: dict[str, np.ndarray], named: dict[str, np.ndarray]) -> None:
        """Refuses a key that looks like a misspelt optional one, since it would have no effect."""
        for key in raw:
            head, _, name = key.partition('/')
            if head in ('kind', 'length') and name not in named:
                raise UserError(f'{self.file}: {key}: {unknown("modality", name, named)}')
            near = difflib.get_close_matches(head, OPTIONAL, 1, 0.75)
            if near and head not in OPTIONAL:
                raise UserError(f'{self.file}: {unknown("key", head, OPTIONAL)}')

    def _kind(self, name: str, x: np.ndarray, given: np.ndarray | None) -> str:
        if not re.fullmatch(r'[\w-]+', name):
            raise self._fail(f'inputs/{name}', 'a name of letters, digits, _ and -', repr(name))
        # Encoders are kept in a ModuleDict by modality, which refuses names of its attributes.
        if hasattr(nn.ModuleDict(), name):
            raise self._fail(f'inputs/{name}', 'a name that is no torch method', repr(name))
        if x.dtype.kind not in 'fiub' or x.ndim not in (2, 3, 4) or 0 in x.shape:
            raise self._fail(f'inputs/{name}', 'numbers (N, ...) of 2 to 4 axes', _about(x))
        if given is None:
            return 'vector' if x.ndim == 2 else 'image'
        kind = str(np.asarray(given).ravel()[0]) if given.size == 1 else ''
        if kind not in KINDS:
            raise self._fail(f'kind/{name}', f'one of {", ".join(KINDS)}', kind or _about(given))
        if x.ndim not in KINDS[kind]:
            axes = ' or '.join(map(str, KINDS[kind]))
            raise self._fail(f'inputs/{name}', f'{axes} axes for a {kind}', _about(x))
        return kind

    def _input(self, name: str, x: np.ndarray) -> np.ndarray:
        """Returns (N, D), (N, T, D) or (N, C, H, W)."""
        if self.kinds[name] == 'image' and x.ndim == 3:
            return x[:, None]
        if x.ndim == 4 and x.shape[3] <= CHANNELS < min(x.shape[1:3]):
            return x.transpose(0, 3, 1, 2)
        return x

    def _modality(self, name: str, x: np.ndarray) -> Modality:
        if self.real[name] is None:
            return Modality(name, x.shape[1:])
        return Modality(name, (x.shape[1], x.shape[2] + 1), padded=True)

    def _splits(self, split: np.ndarray) -> dict[str, np.ndarray]:
        if split.ndim != 1 or split.dtype.kind not in 'fiub' or not np.isin(split, (0, 1, 2)).all():
            raise self._fail('split', '(N,) of 0 train, 1 val, 2 test', _about(split))
        n = len(split)
        for name, x in self.inputs.items():
            if len(x) != n:
                raise self._fail(f'inputs/{name}', f'{n} samples as in split', len(x))
        where = {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}
        for name, rows in where.items():
            if not len(rows):
                raise self._fail('split', f'some samples of {name} ({SPLITS.index(name)})', 'none')
        return where

    def _real(self, name: str, given: np.ndarray | None) -> np.ndarray | None:
        """Returns which frames are no padding, (N, T) bool; None if the input has no lengths."""
        if given is None:
            return None
        key, x = f'length/{name}', self.inputs[name]
        if self.kinds[name] != 'sequence':
            raise self._fail(key, f"kind/{name} to be 'sequence'", f'{self.kinds[name]!r}')
        if given.shape != (len(x),) or given.dtype.kind not in 'iu':
            raise self._fail(key, f'integers ({len(x)},)', _about(given))
        bad = np.flatnonzero((given < 1) | (given > x.shape[1]))
        if len(bad):
            raise self._fail(key, f'1 to {x.shape[1]}', f'{given[bad[0]]} in row {bad[0]}')
        return real_frames(given, x.shape[1])

    def _target(
        self, target: np.ndarray, classes: np.ndarray | None
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        n = len(next(iter(self.inputs.values())))
        if target.dtype.kind not in 'iub' or target.ndim not in (1, 3) or len(target) != n:
            raise self._fail('target', f'integers ({n},) or ({n}, H, W)', _about(target))
        if target.ndim == 3:
            for name, x in self.inputs.items():
                if x.shape[2:] != target.shape[1:]:
                    raise self._fail(f'inputs/{name}', f'images of {target.shape[1:]}', x.shape)
        return target, self._classes(target, classes)

    def _classes(self, target: np.ndarray, classes: np.ndarray | None) -> tuple[str, ...]:
        if classes is not None and classes.ndim != 1:
            raise self._fail('classes', '(K,) names', _about(classes))
        every = [np.unique(target[part]) for part in parts(np.arange(len(target)), target.shape)]
        labels = np.unique(np.concatenate(every))
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
            raise self._fail('available', f'bool {shape}', _about(given))
        available = np.asarray(given).astype(bool)
        for column, name in enumerate(self.inputs):
            if not self.streams:
                self._check_finite(name, available[:, column])
            if not available[self.where['train'], column].any():
                raise self._fail(f'inputs/{name}', 'some training sample that has it', 'none')
        return available

    def _check_finite(self, name: str, available: np.ndarray) -> None:
        x, real = self.inputs[name], self.real[name]
        finite = np.isfinite(x)
        if real is not None:
            finite |= ~real[..., None]
        bad = available & ~finite.reshape(len(x), -1).all(1)
        if bad.any():
            expected = 'finite numbers where available is true'
            found = f'others in row {int(np.flatnonzero(bad)[0])}'
            raise self._fail(f'inputs/{name}', expected, found)

    def _recipe(self) -> dict[str, Any]:
        """Returns the recipe: batches of a quarter of train at most, and about 1,500 steps."""
        samples = len(self.where['train'])
        batch = int(np.clip(samples // 4, 2, 64))
        epochs = int(np.clip(1500 * batch // samples, 20, 60))
        return {'epochs': epochs, 'batch_size': batch, 'lr': 2e-3, 'weight_decay': 0.05}

    def split(self, name: str) -> Split:
        """Returns a split, standardised; of other splits only the training inputs are read."""
        if name not in self.where:
            raise unknown(f'split of {self.name}', name, SPLITS)
        rows = self.where[name]
        lazy = self.streams and self.target.ndim == 3
        return Split(
            inputs={m: self._standardised(m, rows) for m in self.inputs},
            target=Chosen(self.target, rows) if lazy else self.target[rows],
            available=self.available[rows],
            ids=np.array([f'row-{row}' for row in rows]),
        )

    def _standardised(self, name: str, rows: np.ndarray) -> Rows:
        x, real = self.inputs[name], self.real[name]
        if name not in self._moments:
            train = self.where['train']
            known = train[self.available[train, list(self.inputs).index(name)]]
            every = np.ones(x.shape[:2], bool) if self.kinds[name] == 'sequence' else None
            found = moments(x, known, every if real is None else real)
            if not np.isfinite(found).all():
                raise self._fail(f'inputs/{name}', 'finite numbers', 'others in training samples')
            self._moments[name] = found
        label = f'{self.file}: inputs/{name}'
        standardised = Standardised(x, rows, self._moments[name], real, label)
        return standardised if self.streams else standardised.read()


def _about(x: np.ndarray) -> str:
    return f'{x.dtype} {x.shape}'
