"""A user's own arrays: an .npz file or a folder of .npy files with inputs, targets and splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.dataset import SPLITS, VOID, Dataset, Intake, Preparation, Rows, Split, Unseen
from benchmark.errors import UserError, unknown
from benchmark.method import Modality, Task
from benchmark.narrowed import named
from benchmark.registry import DATASETS
from datasets.common.class_weights import ClassWeights, weights_of
from datasets.common.families.array_contents import Measured, measure, read_contents
from datasets.common.families.array_inputs import (
    NEEDED,
    Input,
    about,
    clusters_of,
    fail,
    is_read,
    lacks,
    read_inputs,
)
from datasets.common.families.array_targets import Reader
from datasets.common.families.fewer import used
from datasets.common.families.unseen_arrays import unseen_arrays
from datasets.common.io import notes
from datasets.common.io.copies import Duplicates, copies, of_modalities, shared
from datasets.common.io.files import where_to_look
from datasets.common.io.paths import check_access
from datasets.common.io.row_contents import Contents
from datasets.common.io.rows import Standardised, facts_of
from datasets.common.io.stored import content_hash, load
from datasets.common.meaning import Meaning
from datasets.common.recipe import recipe


@DATASETS.register_module('arrays')
class Arrays(Dataset):
    """Any arrays: vectors, sequences or images, with class labels or label maps.

    The arrays are in one .npz file, or in a folder with one .npy file per key, such as
    `inputs/rgb.npy` for the key `inputs/rgb`. A folder's arrays stay on disk: opening the data set
    reads them once, in parts, and again only if they have changed; training reads the rows that it
    needs. These keys must exist:

    - `inputs/<modality>`: (N, D), (N, T, D), (N, H, W), (N, C, H, W) or (N, H, W, C);
    - `target`: integers (N,), or label maps (N, H, W) in which 255 is ignored (`ignore_label`) and
      beside which all inputs are images of the same size;
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
        ignore_label: The number in label maps that is left out of losses and metrics; 'none' if
            there is none.
        reduce_zero_label: Whether 0 is left out of label maps beside 255, and k + 1 is class k.
        target: What the key `target` holds where it is neither classes nor label maps: 'multilabel'
            for any number of K labels, (N, K) of 0 and 1, or 'regression' for numbers (N,) or
            (N, K). `classes` then names the K columns. Targets of a regression are standardised by
            the training samples in the loss; metrics are in their own units.
        duplicates: Whether samples, and clusters, that are in two splits are only reported
            ('report') or are an error ('refuse').
        train: How many training samples are used, for learning curves: each class in its
            proportion, always the same ones, fewer among more; 0 for all of them.
        width: Channels of the encoders' first stage.
        class_weights: Weights of the classes in the task's loss: 'balanced' (inversely proportional
            to their numbers of training samples or labelled training pixels), or a positive number
            for each class, joined by '/' or ','; equal weights by default.

    Raises:
        UserError: The file, or the content of a key, is not as above, or a value is not finite.
    """

    licence = "whatever applies to the user's own data"
    younger = ('class_weights', 'ignore_label', 'reduce_zero_label', 'target', 'train')
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
        train: int = 0,
        width: int = 16,
        class_weights: ClassWeights = '',
        ignore_label: int | None = VOID,
        reduce_zero_label: bool = False,
        target: Literal['', 'multilabel', 'regression'] = '',
    ) -> None:
        if not root:
            raise UserError(f'arrays: expected {where_to_look("FILE.npz or FOLDER")}, found none')
        self.file = Path(root)
        check_access(self.file)
        self.streams = self.file.is_dir()
        self.aside: list[str] = []
        raw = load(self.file, self.aside)
        meaning = Meaning(ignore_label, reduce_zero_label, binary)
        self._read(raw, named(modalities, 'modalities'), (meaning, target), train)
        self.name = name or (self.file.resolve().name if self.streams else self.file.stem)
        weighted = [f'class_weights={class_weights}'] if class_weights else []
        own = ['binary'] if binary else meaning.options
        weighted += [f'target={target}'] if target else []
        weighted += [f'train={train}'] if train else []
        options = (width, *self.inputs, *own, *weighted)
        self.fingerprint = content_hash(self.file, raw, *options)
        vectors = any(one.kind == 'vector' for one in self.inputs.values())
        self.recipe, self.recipe_note = recipe(
            len(self.where['train']), vectors=vectors, modalities=len(self.inputs)
        )
        shapes = tuple(self._modality(m, x) for m, x in self.inputs.items())
        kind, metric, classes = self.targets.kind, self.targets.metric, self.targets.classes
        scale = self.targets.scale
        self.task = Task(self.name, kind, shapes, classes, metric, width, scale=scale)
        rows = self.where['train']
        there = np.flatnonzero(self.available[rows].any(axis=1))
        given = class_weights, self.task, self.targets.of(rows), there, str(self.file)
        self.task = replace(self.task, class_weights=weights_of(*given))
        self.notes = (*self._summary(), *self._copies(duplicates))

    def _read(
        self,
        raw: dict[str, np.ndarray],
        chosen: tuple[str, ...],
        meaning: tuple[Meaning, str],
        train: int,
    ) -> None:
        for key in NEEDED:
            if key not in raw:
                raise lacks(self.file, f'the key {key!r}', key, raw)
        self.inputs = read_inputs(self.file, raw, chosen)
        self.where = self._splits(np.asarray(raw['split']))
        self.count = len(raw['split'])
        self.aside += [key for key in raw if not is_read(key, self.inputs)]
        every = [name for name in raw if name.startswith('inputs/')]
        columns = [every.index(f'inputs/{name}') for name in self.inputs]
        self.available = self._available(raw.get('available'), len(every))[:, columns]
        for name, rows in self.where.items():
            if not self.available[rows].any():
                raise self._fail('available', f'some sample of {name} with a modality', 'none')
        there: np.ndarray = np.asarray(self.available.any(axis=1))
        given = self.where['train'], there, raw['target'], train, not meaning[1]
        rows = used(self.file, *given)
        self.targets = Reader(self.file, self.inputs, self.where, there, rows, *meaning).read(raw)
        self.where['train'] = rows
        self.contents: list[Contents] = []
        marked = 'available' in raw
        self.measured: dict[str, Measured] = {}
        for (name, one), there in zip(self.inputs.items(), self.available.T, strict=True):
            self.contents.append(read_contents(self.file, name, one, there, self.streams, marked))
            self.measured[name] = measure(self.file, name, one, there, self.where, self.streams)
        self.clusters = clusters_of(self.file, raw.get('cluster'), self.count)

    def _fail(self, key: str, expected: str, found: Any) -> UserError:
        return fail(self.file, key, expected, found)

    def _modality(self, name: str, one: Input) -> Modality:
        shape = one.values.shape[1:]
        if one.real is None:
            return Modality(name, shape)
        return Modality(name, (shape[0], shape[1] + 1), padded=True)

    def _splits(self, split: np.ndarray) -> dict[str, np.ndarray]:
        if split.ndim != 1 or split.dtype.kind not in 'fiub' or not np.isin(split, (0, 1, 2)).all():
            expected = 'numbers (N,): 0 for training, 1 for validation, 2 for test'
            found = _other_than(split, (0, 1, 2)) if split.ndim == 1 else about(split)
            raise self._fail('split', expected, found)
        n = len(split)
        for name, one in self.inputs.items():
            if len(one.values) != n:
                raise self._fail(f'inputs/{name}', f'{n} samples as in split', len(one.values))
        where = {name: np.flatnonzero(split == i) for i, name in enumerate(SPLITS)}
        for name, rows in where.items():
            if not len(rows):
                raise self._fail('split', f'some samples of {name} ({SPLITS.index(name)})', 'none')
        return where

    def _available(self, given: np.ndarray | None, inputs: int) -> np.ndarray:
        shape = (self.count, inputs)
        if given is None:
            given = np.ones(shape, bool)
        truth = given.dtype.kind in 'fiub' and np.isin(given, (0, 1)).all()
        if given.shape != shape or not truth:
            found = _other_than(given, (0, 1)) if given.shape == shape else about(given)
            raise self._fail('available', f'bool {shape}', found)
        return np.asarray(given).astype(bool)

    def _summary(self) -> list[str]:
        """Returns what was found, for the user, in lines."""
        found = [notes.found(self.task.modalities, self.where)]
        if self.targets.shown:
            numbered = self.task.kind == 'classification'
            found += notes.labels(self.targets.classes, self.targets.shown, numbered)
        if self.task.kind == 'multilabel':
            train = self.where['train'][self.available[self.where['train']].any(1)]
            found += notes.several(self.targets.classes, self.targets.values[train])
        rows = np.concatenate(list(self.where.values()))
        some = self.available[rows[self.available[rows].any(1)]]
        gaps = dict(zip(self.inputs, (~some).sum(0).tolist(), strict=True))
        found += notes.lacking(gaps, some)
        if empty := len(rows) - len(some):
            found.append(
                f'{notes.counted(empty, "sample has", "samples have")} no modality at all and '
                f'{"is" if empty == 1 else "are"} neither trained nor tested'
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
        every = np.full(self.count, '') if self.clusters is None else self.clusters
        clusters = {name: every[rows].tolist() for name, rows in self.where.items()}
        return [*copies(self.file, splits, duplicates), *shared(self.file, clusters, duplicates)]

    def split(self, name: str) -> Split:
        """Returns a split, standardised; of other splits only the training inputs are read."""
        if name not in self.where:
            raise unknown(f'split of {self.name}', name, SPLITS)
        rows = self.where[name]
        lazy = self.streams and self.task.kind == 'segmentation'
        target = self.targets.of(rows)
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


def _other_than(x: np.ndarray, expected: tuple[int, ...]) -> str:
    """Tells the first value of an array that is none of the numbers which are expected."""
    numbers = x.dtype.kind in 'fiub'
    bad = np.argwhere(~np.isin(x, expected) if numbers else np.ones(x.shape, bool))
    if not (x.ndim and len(bad)):
        return about(x)
    row, *column = bad[0].tolist()
    where = f'row {row}, column {column[0]}' if column else f'row {row}'
    return f'{x[tuple(bad[0])].item()!r:.40} in {where}'
