"""Predictions of other code in classification, in the order and the form of outcomes."""

from __future__ import annotations

import numpy as np
import torch

from benchmark.dataset import Split
from benchmark.engine.outputs import kept_logits
from benchmark.errors import UserError, unknown
from benchmark.method import Task
from benchmark.records.predictions import Predictions

PROBABILITIES = 1e-3
"""Largest difference of the sum of a sample's probabilities from 1: they may be rounded."""

TINY = float(np.finfo(np.float64).tiny)
"""What a probability of 0 counts as, whose logarithm is not finite."""


class Classes:
    """Reads what a file tells of one subset after the other.

    Args:
        found: What the file tells.
        task: The task.
        split: The test split.

    Raises:
        UserError: The file is of other samples or labels.
    """

    def __init__(self, found: Predictions, task: Task, split: Split) -> None:
        self.found, self.task = found, task
        self.names = [str(name) for name in split.ids]
        self.order = found.order(self.names)
        if found.target is not None:
            self._check_target(np.asarray(split.target[np.arange(len(split))]))

    def _check_target(self, target: np.ndarray) -> None:
        given = self._numbers('target', np.asarray(self.found.target))[self.order]
        for k in np.flatnonzero(given != target)[:1]:
            true, told = ('none' if i < 0 else self.task.classes[i] for i in (target[k], given[k]))
            where = f'target of {self.names[k]!r}'
            raise self.found.wrong(where, f'{true} as in the data set', told)

    def _numbers(self, where: str, given: np.ndarray) -> np.ndarray:
        """Returns classes (N,) as numbers, -1 where there is none, of numbers or names.

        Raises:
            UserError: One is no class.
        """
        classes = self.task.classes
        if given.ndim != 1 or given.dtype.kind not in 'iuUO':
            about = f'{given.dtype} {given.shape}'
            raise self.found.wrong(where, 'a number or name of a class per sample (N,)', about)
        if given.dtype.kind in 'iu':
            for number in given[(given < -1) | (given >= len(classes))][:1]:
                expected = f'classes from 0 to {len(classes) - 1}, or -1 for no prediction'
                raise self.found.wrong(where, expected, number)
            return given.astype(np.int64)
        numbers = {'': -1, **{str(k): k for k in range(-1, len(classes))}}
        numbers |= {name: k for k, name in enumerate(classes)}
        for name in given.tolist():
            if name not in numbers:
                told = unknown('class', name[:100], classes)
                raise UserError(f'{self.found.file}: {where}: {told}')
        return np.array([numbers[name] for name in given.tolist()])

    def read(self, subset: str, has: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """Returns what a `SubsetMetric` keeps of a subset, and how many predictions do not count.

        Args:
            subset: The subset as the file calls it.
            has: (N,) which test samples have it; only their predictions count.

        Raises:
            UserError: A prediction lacks, or is none.
        """
        kinds = self.found.subsets[subset]
        kind = self.found.form(subset, ('prob', 'logit'), beside='pred')
        kept = {'ids': np.flatnonzero(has)}
        there = np.ones(len(has), bool)
        if kind:
            logits, there = self._logits(f'{kind}/{subset}', kind, kinds[kind], has)
            kept['pred'] = logits[has].argmax(1)
        if 'pred' in kinds:
            decided = self._numbers(f'pred/{subset}', kinds['pred'])[self.order]
            there = there & (decided >= 0)
            kept['pred'] = decided[has]
        for k in np.flatnonzero(has & ~there)[:1]:
            expected = 'a prediction of every test sample that has it'
            raise self.found.wrong(f'subset {subset}', expected, f'none of {self.names[k]!r}')
        if kind:
            kept['logit'] = kept_logits(self.task, torch.from_numpy(logits[has])).numpy()
        return kept, int((there & ~has).sum())

    def _logits(
        self, where: str, kind: str, given: np.ndarray, has: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits (N, K), and which samples (N,) have any, in the order of the split.

        The logits of probabilities are their logarithms. A row of NaN stands for no prediction.
        """
        shape = (len(self.names), len(self.task.classes))
        if given.shape != shape or given.dtype.kind != 'f':
            found = f'{given.dtype} {given.shape}'
            raise self.found.wrong(where, f'fractions {shape}, a column for each class', found)
        values = given[self.order].astype(np.float64)
        there = ~np.isnan(values).all(1)
        self._check(where, ~np.isfinite(values).all(1) & there & has, values, 'finite numbers')
        if kind == 'logit':
            return values, there
        wrong = (np.abs(values.sum(1) - 1) > PROBABILITIES) | (values < 0).any(1)
        self._check(where, wrong & there & has, values, 'probabilities with the sum 1')
        return np.log(np.maximum(values, TINY)), there

    def _check(self, where: str, wrong: np.ndarray, values: np.ndarray, expected: str) -> None:
        for k in np.flatnonzero(wrong)[:1]:
            shown = ', '.join(f'{x:.6g}' for x in values[k][:8])
            raise self.found.wrong(f'{where} of {self.names[k]!r}', expected, shown)
