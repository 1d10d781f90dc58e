"""The targets of a user's own arrays, read once when the data are opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Rows
from benchmark.errors import UserError
from benchmark.names import check_classes
from datasets.common.families.array_inputs import Input, about, fail, texts
from datasets.common.io.rows import Chosen, parts
from datasets.common.meaning import Meaning, check_number, trained


@dataclass(frozen=True)
class Targets:
    """The targets of all samples.

    Attributes:
        kind: Kind of the task.
        metric: Its metric.
        classes: Names of the classes.
        values: The array, (N,) or (N, H, W), or with a column for each label or value (N, K).
        meaning: What the numbers of label maps mean.
        shown: Split -> the classes that its samples have; empty of several labels and values.
        scale: Mean and standard deviation of each value of a regression in the training split.
    """

    kind: str
    metric: str
    classes: tuple[str, ...]
    values: np.ndarray
    meaning: Meaning
    shown: dict[str, set[int]]
    scale: tuple[tuple[float, float], ...] = ()

    def of(self, rows: np.ndarray) -> Rows:
        """Returns the targets of some samples, which are read on demand."""
        if self.kind != 'segmentation':
            return Chosen(self.values, rows)
        return self.meaning.rows(self.values, rows, len(self.classes))


@dataclass(frozen=True)
class Reader:
    """Reads the targets of arrays.

    Attributes:
        file: The file or folder.
        inputs: Modality -> input.
        where: Split -> positions of its samples.
        there: (N,) bool, the samples that have a modality.
        used: (n,) positions of the training samples that are used.
        meaning: What the numbers of label maps mean.
        kind: 'multilabel' or 'regression' where the targets are such; otherwise empty.
    """

    file: Path
    inputs: Mapping[str, Input]
    where: Mapping[str, np.ndarray]
    there: np.ndarray
    used: np.ndarray
    meaning: Meaning
    kind: str = ''

    def read(self, raw: Mapping[str, np.ndarray]) -> Targets:
        """Returns the targets of the keys 'target' and 'classes'.

        Raises:
            UserError: They are not as `datasets.arrays.Arrays` says.
        """
        self.meaning.check(str(self.file))
        if self.kind:
            return self._columns(raw['target'], raw.get('classes'))
        target = self._checked(raw['target'])
        dense = target.ndim == 3
        classes, shown = self._classes(target, raw.get('classes'))
        kind = ('segmentation', 'mIoU') if dense else ('classification', 'accuracy')
        return Targets(*kind, classes, target, self.meaning, shown)

    def _fail(self, key: str, expected: str, found: Any) -> UserError:
        return fail(self.file, key, expected, found)

    def _columns(self, target: np.ndarray, given: np.ndarray | None) -> Targets:
        """Returns several labels or the values of a regression."""
        n, labels = len(self.there), self.kind == 'multilabel'
        kinds, shape = ('iub', f'({n}, K)') if labels else ('iuf', f'({n},) or ({n}, K)')
        what = '0 and 1' if labels else 'numbers'
        self.meaning.check_unused(str(self.file), f'target={self.kind}')
        self._check_rows(target, n)
        if target.dtype.kind not in kinds:
            raise self._fail('target', f'{what} {shape} with target={self.kind}', about(target))
        if target.ndim != 2 and (labels or target.ndim != 1):
            raise self._fail('target', f'{what} {shape} with target={self.kind}', about(target))
        values = target.reshape(n, -1)
        right = np.isin(values, (0, 1)) if labels else np.isfinite(values)
        for row in np.flatnonzero(~right.all(1) & self.there)[:1]:
            raise self._fail('target', f'{"0 and 1" if labels else "finite numbers"}', values[row])
        count = values.shape[1]
        names = tuple(map(str, range(count))) if labels or count > 1 else ('value',)
        if given is not None:
            names = texts(self.file, 'classes', np.ravel(given))
        if len(names) != count:
            raise self._fail('classes', f'{count} names, one for each column of target', len(names))
        check_classes(f'{self.file}: classes', names, 1)
        train = values[self.used[self.there[self.used]]].astype(np.float64)
        if labels:
            return Targets('multilabel', 'F1', names, values, self.meaning, {})
        return Targets('regression', 'MAE', names, values, self.meaning, {}, scale_of(train))

    def _check_rows(self, target: np.ndarray, n: int) -> None:
        if target.ndim and len(target) != n:
            raise self._fail('target', f'{n} rows, as the inputs have', f'{len(target)}')

    def _checked(self, target: np.ndarray) -> np.ndarray:
        n = len(next(iter(self.inputs.values())).values)
        self._check_rows(target, n)
        if target.dtype.kind not in 'iub' or target.ndim not in (1, 3):
            hint = '; target=multilabel and target=regression take others'
            if target.dtype.kind in 'SU':
                hint = ', which is text; give class numbers from 0, and the names in classes'
            raise self._fail('target', f'integers ({n},) or ({n}, H, W)', f'{about(target)}{hint}')
        if target.ndim == 1:
            self.meaning.check_unused(f'{self.file}: target', about(target))
        if target.ndim == 3:
            for name, one in self.inputs.items():
                shape = one.values.shape
                if one.kind != 'image' or shape[2:] != target.shape[1:]:
                    raise self._fail(f'inputs/{name}', f'images of {target.shape[1:]}', shape)
        return target

    def _classes(
        self, target: np.ndarray, given: np.ndarray | None
    ) -> tuple[tuple[str, ...], dict[str, set[int]]]:
        """Reads all labels once, checks them, and returns the classes and those of each split."""
        if given is not None and given.ndim != 1:
            raise self._fail('classes', '(K,) names', about(given))
        meaning = self.meaning if target.ndim == 3 else None
        # Samples without any modality are neither trained nor tested.
        numbers = {
            name: _values(target, rows[self.there[rows]]) for name, rows in self.where.items()
        }
        count = self._count(numbers, meaning, given)
        check_number(f'{self.file}: target', count, meaning)
        trained(f'{self.file}: target', numbers['train'], meaning)
        names = (
            tuple(map(str, range(count))) if given is None else texts(self.file, 'classes', given)
        )
        check_classes(f'{self.file}: classes', names)
        of = meaning.of if meaning else set
        numbers['train'] = _values(target, self.used[self.there[self.used]])
        return names, {split: {*of(found)} for split, found in numbers.items()}

    def _count(
        self,
        numbers: Mapping[str, frozenset[int]],
        meaning: Meaning | None,
        given: np.ndarray | None,
    ) -> int:
        """Returns the number of classes, after checks of all numbers by split."""
        every = frozenset[int]().union(*numbers.values())
        ignored = frozenset(meaning.ignored if meaning else ())
        for name, found in numbers.items():
            if found and found <= ignored:
                told = f'{", ".join(map(str, sorted(found)))} everywhere'
                raise self._fail('target', f'some labelled pixel in {name}', told)
        low, top = min(every - ignored), max(every - ignored)
        if meaning and meaning.binary and not every <= {0, 255}:
            raise self._fail('target', '0 and 255 alone with binary=true', f'{top}')
        if low < 0:
            raise self._fail('target', 'labels from 0 up', f'{low}')
        count = 2 if meaning and meaning.binary else top + 1 - bool(meaning and meaning.reduced)
        if given is None:
            return count
        if count > len(given):
            expected = f'labels below {len(given)}, the number of names in classes'
            raise self._fail('target', expected, f'{top}')
        return len(given)


def scale_of(values: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Returns mean and standard deviation of each column of (N, K); 1 where it does not vary."""
    std = values.std(0)
    pairs = zip(values.mean(0).tolist(), np.where(std > 0, std, 1.0).tolist(), strict=True)
    return tuple(pairs)


def _values(target: np.ndarray, rows: np.ndarray) -> frozenset[int]:
    """Returns all labels of samples."""
    found = [np.unique(target[part]) for part in parts(rows, target.shape)]
    return frozenset(map(int, np.unique(np.concatenate(found))))
