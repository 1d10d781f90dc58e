"""A user's own arrays: an .npz file or a folder of .npy files with inputs, targets and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import SPLITS, Dataset, Intake, Preparation, Rows, Split, Unseen
from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Modality, Task
from benchmark.names import check_classes
from benchmark.narrowed import named
from benchmark.registry import DATASETS
from datasets.common.class_weights import ClassWeights, weights_of
from datasets.common.families.array_contents import Measured, measure, read_contents
from datasets.common.families.array_inputs import Input, about, fail, is_read, read_inputs, texts
from datasets.common.families.unseen_arrays import Foreground, unseen_arrays
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities, shared
from datasets.common.io.inspection import check_number, check_trained_classes
from datasets.common.io.paths import check_access
from datasets.common.io.row_contents import Contents
from datasets.common.io.rows import Chosen, Standardised, facts_of, parts
from datasets.common.io.stored import content_hash, load
from datasets.common.recipe import recipe


@DATASETS.register_module('arrays')
class Arrays(Dataset):
    """Any arrays: vectors, sequences or images, with class labels or label maps.

    The arrays are in one .npz file, or in a folder with one .npy file per key, such as
    `inputs/rgb.npy` for the key `inputs/rgb`. A folder's arrays stay on disk: opening the data set
    reads them once, in parts, and again only if they have changed; training reads the rows that it
    needs. These keys must exist:

    - `inputs/<modality>`: (N, D), (N, T, D), (N, H, W), (N, C, H, W) or (N, H, W, C);
    - `target`: integers (N,), or label maps (N, H, W) in which 255 is ignored and beside which all
      inputs are images of the same size;
    - `split`: (N,), 0 for training, 1 for validation and 2 for test.

    These keys may exist:

    - `kind/<modality>`: 'vector', 'sequence' or 'image'; an input of three axes is taken as an
      image unless its kind is 'sequence';
    - `layout/<modality>`: 'channels_first' or 'channels_last', for images of four axes whose shape
      leaves open which axis holds the channels;
    - `length/<modality>`: (N,), how many of a sequence's T frames are no padding, at least 1;
    - `available`: (N, M) bool, which modalities a sample has, in the order of the inputs (by name
      in a folder);
    - `classes`: (K,), the names of the classes;
    - `cluster`: (N,), the person, video or the like that each sample comes from.

    Inputs are standardised by the training samples that have them: vectors per feature, sequences
    per feature over the frames that are no padding, and images per channel. What does not vary in
    the training samples becomes 0.

    Args:
        root: The file or folder.
        name: Name of the data set in tables and folders; the name of the root by default.
        modalities: The modalities to read, joined by '+'; all inputs by default.
        binary: Whether label maps are binary masks, in which 255 is the foreground, class 1.
        duplicates: Whether samples, and clusters, that are in two splits are only reported
            ('report') or are an error ('refuse').
        width: Channels of the encoders' first stage.
        class_weights: Weights of the classes in the task's loss: 'balanced' (inversely proportional
            to their numbers of training samples or labelled training pixels), or a positive number
            for each class, joined by '/' or ','; equal weights by default.

    Raises:
        UserError: The file, or the content of a key, is not as above, or a value is not finite.
    """

    licence = "whatever applies to the user's own data"
    younger = ('class_weights',)
    how_to_get = (
        'Save inputs/<modality>, target and split in one .npz file or as .npy files in one folder.'
    )

    def __init__(
        self,
        *,
        root: str = '',
        name: str = '',
        modalities: str = '',
        binary: bool = False,
        duplicates: Duplicates = 'report',
        width: int = 16,
        class_weights: ClassWeights = '',
    ) -> None:
        if not root:
            raise UserError('arrays: expected --data-root FILE.npz or FOLDER, found none')
        self.file, self.binary = Path(root), binary
        check_access(self.file)
        self.streams = self.file.is_dir()
        self.aside: list[str] = []
        raw = load(self.file, self.aside)
        self._read(raw, named(modalities, 'modalities'))
        self.name = name or (self.file.resolve().name if self.streams else self.file.stem)
        weighted = [f'class_weights={class_weights}'] if class_weights else []
        options = (width, *self.inputs, *(['binary'] if binary else []), *weighted)
        self.fingerprint = content_hash(self.file, raw, *options)
        self.recipe, self.recipe_note = recipe(len(self.where['train']))
        dense = self.target.ndim == 3
        metric, kind = ('mIoU', 'segmentation') if dense else ('accuracy', 'classification')
        shapes = tuple(self._modality(m, x) for m, x in self.inputs.items())
        train = self.where['train']
        there = np.flatnonzero(self.available[train].any(axis=1))
        weights = weights_of(
            class_weights, self.classes, self._labels(train), there, str(self.file)
        )
        self.task = Task(
            self.name, kind, shapes, self.classes, metric, width, class_weights=weights
        )
        self.notes = (*self._summary(), *self._copies(duplicates))

    def _read(self, raw: dict[str, np.ndarray], chosen: tuple[str, ...]) -> None:
        for key in ('target', 'split'):
            if key not in raw:
                raise UserError(f'{self.file}: expected a key {key!r}: {unknown("key", key, raw)}')
        self.inputs = read_inputs(self.file, raw, chosen)
        self.where = self._splits(np.asarray(raw['split']))
        self.target = self._target(raw['target'])
        self.aside += [key for key in raw if not is_read(key, self.inputs)]
        every = [name for name in raw if name.startswith('inputs/')]
        columns = [every.index(f'inputs/{name}') for name in self.inputs]
        self.available = self._available(raw.get('available'), len(every))[:, columns]
        for name, rows in self.where.items():
            if not self.available[rows].any():
                raise self._fail('available', f'some sample of {name} with a modality', 'none')
        self.classes = self._classes(raw.get('classes'))
        self.contents: list[Contents] = []
        self.measured: dict[str, Measured] = {}
        for (name, one), there in zip(self.inputs.items(), self.available.T, strict=True):
            self.contents.append(read_contents(self.file, name, one, there, self.streams))
            self.measured[name] = measure(self.file, name, one, there, self.where, self.streams)
        self.clusters = self._clusters(raw.get('cluster'))

    def _fail(self, key: str, expected: str, found: Any) -> UserError:
        return fail(self.file, key, expected, found)

    def _modality(self, name: str, one: Input) -> Modality:
        shape = one.values.shape[1:]
        if one.real is None:
            return Modality(name, shape)
        return Modality(name, (shape[0], shape[1] + 1), padded=True)

    def _splits(self, split: np.ndarray) -> dict[str, np.ndarray]:
        if split.ndim != 1 or split.dtype.kind not in 'fiub' or not np.isin(split, (0, 1, 2)).all():
            raise self._fail('split', '(N,) of 0 train, 1 val, 2 test', about(split))
        n = len(split)
        for name, one in self.inputs.items():
            if len(one.values) != n:
                raise self._fail(f'inputs/{name}', f'{n} samples as in split', len(one.values))
        where = {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}
        for name, rows in where.items():
            if not len(rows):
                raise self._fail('split', f'some samples of {name} ({SPLITS.index(name)})', 'none')
        return where

    def _target(self, target: np.ndarray) -> np.ndarray:
        n = len(next(iter(self.inputs.values())).values)
        if target.dtype.kind not in 'iub' or target.ndim not in (1, 3) or len(target) != n:
            raise self._fail('target', f'integers ({n},) or ({n}, H, W)', about(target))
        if target.ndim == 1 and self.binary:
            raise self._fail('target', 'label maps with binary=true', about(target))
        if target.ndim == 3:
            for name, one in self.inputs.items():
                shape = one.values.shape
                if one.kind != 'image' or shape[2:] != target.shape[1:]:
                    raise self._fail(f'inputs/{name}', f'images of {target.shape[1:]}', shape)
        return target

    def _classes(self, given: np.ndarray | None) -> tuple[str, ...]:
        """Reads all labels once, checks them, and returns the names of the classes."""
        if given is not None and given.ndim != 1:
            raise self._fail('classes', '(K,) names', about(given))
        # Samples without any modality are neither trained nor tested.
        there: np.ndarray = np.asarray(self.available.any(axis=1))
        labels = {name: self._values(rows[there[rows]]) for name, rows in self.where.items()}
        dense, every = self.target.ndim == 3, frozenset().union(*labels.values())
        ignored = IGNORE if dense and not self.binary else None
        for name, found in labels.items():
            if found == {ignored}:
                expected = f'some labelled pixel in {name}'
                raise self._fail('target', expected, f'{IGNORE} everywhere')
        low, top = min(every - {ignored}), max(every - {ignored})
        if self.binary and not every <= {0, IGNORE}:
            raise self._fail('target', f'0 and {IGNORE} alone with binary=true', f'{top}')
        count = 2 if self.binary else top + 1
        if low < 0:
            raise self._fail('target', 'labels from 0 up', f'{low}')
        if given is not None and count > len(given):
            expected = f'labels below {len(given)}, the number of names in classes'
            raise self._fail('target', expected, f'{top}')
        check_number(f'{self.file}: target', max(count, 0 if given is None else len(given)))
        check_trained_classes(f'{self.file}: target', labels['train'], ignored)
        names = (
            tuple(map(str, range(count))) if given is None else texts(self.file, 'classes', given)
        )
        check_classes(f'{self.file}: classes', names)
        known = {0: 0, IGNORE: 1} if self.binary else {k: k for k in range(len(names))}
        self.shown = {k: {known[v] for v in found - {ignored}} for k, found in labels.items()}
        return names

    def _labels(self, rows: np.ndarray) -> Rows:
        return Foreground(self.target, rows) if self.binary else Chosen(self.target, rows)

    def _values(self, rows: np.ndarray) -> frozenset[int]:
        """Returns all labels of samples."""
        found = [np.unique(self.target[part]) for part in parts(rows, self.target.shape)]
        return frozenset(map(int, np.unique(np.concatenate(found))))

    def _available(self, given: np.ndarray | None, inputs: int) -> np.ndarray:
        shape = (len(self.target), inputs)
        if given is None:
            given = np.ones(shape, bool)
        truth = given.dtype.kind in 'fiub' and np.isin(given, (0, 1)).all()
        if given.shape != shape or not truth:
            raise self._fail('available', f'bool {shape}', about(given))
        return np.asarray(given).astype(bool)

    def _clusters(self, given: np.ndarray | None) -> np.ndarray | None:
        if given is None:
            return None
        if given.shape != (len(self.target),) or given.dtype.kind not in 'iuSU':
            expected = f'names or whole numbers ({len(self.target)},)'
            raise self._fail('cluster', expected, about(given))
        names = texts(self.file, 'cluster', given)
        for row, name in enumerate(names):
            if not name.strip() or not name.isprintable():
                raise self._fail('cluster', 'printable names', f'{ascii(name)} in row {row}')
        return np.array(names)

    def _summary(self) -> list[str]:
        """Returns what was found, for the user, in lines."""
        found = [notes.found(self.task.modalities, self.where)]
        found += notes.labels(self.classes, self.shown)
        if empty := int((~self.available.any(1)).sum()):
            found.append(
                f'{empty} samples have no modality at all and are neither trained nor tested'
            )
        for name, one in self.measured.items():
            what = 'channel' if self.inputs[name].kind == 'image' else 'feature'
            found += notes.constant(name, one.constant, one.varying, what)
        return [*found, *notes.aside(self.aside)]

    def _copies(self, duplicates: Duplicates) -> list[str]:
        known = dict(zip(self.inputs, self.contents, strict=True))
        splits = {}
        for name, rows in self.where.items():
            digests = {m: [found.digests[row] for row in rows] for m, found in known.items()}
            splits[name] = of_modalities([f'row-{row}' for row in rows], digests)
        every = np.full(len(self.target), '') if self.clusters is None else self.clusters
        clusters = {name: every[rows].tolist() for name, rows in self.where.items()}
        return [*copies(self.file, splits, duplicates), *shared(self.file, clusters, duplicates)]

    def split(self, name: str) -> Split:
        """Returns a split, standardised; of other splits only the training inputs are read."""
        if name not in self.where:
            raise unknown(f'split of {self.name}', name, SPLITS)
        rows = self.where[name]
        lazy = self.streams and self.target.ndim == 3
        target = self._labels(rows)
        return Split(
            inputs={m: self._standardised(m, rows) for m in self.inputs},
            target=target if lazy else target[np.arange(len(rows))],
            available=self.available[rows],
            ids=np.array([f'row-{row}' for row in rows]),
            clusters=None if self.clusters is None else self.clusters[rows],
        )

    def preparation(self, split: Split) -> Preparation:
        """Returns the moments of the training samples, and how images were stored."""
        return {
            m: {**facts_of(one.mean[0], one.std[0]), **self.inputs[m].facts}
            for m, one in self.measured.items()
        }

    @classmethod
    def unseen(cls, root: Path | None, intake: Intake, labelled: bool, part: str) -> Unseen:
        """Opens new arrays of the same keys; `target` and `split` need not exist."""
        return unseen_arrays(Path(root or ''), intake, labelled, part)

    def _standardised(self, name: str, rows: np.ndarray) -> Rows:
        one, (mean, std, _) = self.inputs[name], self.measured[name]
        told = f'{self.file}: inputs/{name}'
        standardised = Standardised(one.values, rows, (mean, std), one.real, told)
        if self.streams:
            return standardised
        # Values of a row that is not available are never read, and may be anything.
        there = self.available[rows, list(self.inputs).index(name)]
        values = standardised.read()
        values[there] = standardised[np.flatnonzero(there)]
        return values
