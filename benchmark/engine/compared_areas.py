"""Predictions of other code in segmentation, in the order and the form of outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image

from benchmark.dataset import Split, label_maps
from benchmark.engine.recording import samples_of
from benchmark.engine.subset_metrics import DiceMetric, SegmentationMetric, metric_for
from benchmark.errors import UserError
from benchmark.method import Task
from benchmark.records.predictions import Predictions


class Areas:
    """Reads what a file tells of one subset after the other.

    A unit is what the metric is computed on: an image or, for Dice, a volume.

    Args:
        found: What the file tells: areas or confusion matrices of the units, or paths of label maps
            of the images or slices.
        task: The task.
        split: The test split.
    """

    def __init__(self, found: Predictions, task: Task, split: Split) -> None:
        self.found, self.task, self.split = found, task, split
        self.units = samples_of(task, split)['name'].tolist()
        self.images = [str(name) for name in split.ids]
        self.dice = task.metric == 'Dice'
        self.columns = [name for name, _ in task.regions] if self.dice else list(task.classes)
        self._known: dict[bytes, np.ndarray] = {}

    def _target(self, position: int) -> np.ndarray:
        return label_maps(self.split.target[np.array([position])], self.task)[0]

    def _measured(
        self, positions: np.ndarray, labels: Callable[[int], np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Returns what the metric of a run keeps of label maps, given by position in the split."""
        metric = cast(SegmentationMetric | DiceMetric, metric_for(self.task, self.split.groups))
        there = torch.ones(1, dtype=torch.bool)
        for k in positions.tolist():
            pred, target = (
                torch.from_numpy(x.astype(np.int64))[None] for x in (labels(k), self._target(k))
            )
            metric.add(metric.areas(pred, target), torch.tensor([k]), there, there)
        metric.evaluate(len(positions))
        return metric.outcomes

    def _labelled(self, has: np.ndarray) -> np.ndarray:
        """Returns the labelled areas (U, K) of units, of slices those that have a subset (N,)."""
        key = has.tobytes()
        if key not in self._known:
            found = self._measured(np.flatnonzero(has), self._target)
            labelled = np.zeros((len(self.units), len(self.columns)), np.int64)
            labelled[found['ids']] = found['areas'][:, 2]
            self._known[key] = labelled
        return self._known[key]

    def read(self, subset: str, has: np.ndarray) -> tuple[dict[str, np.ndarray], int]:
        """Returns what a `SubsetMetric` keeps of a subset, and how many predictions do not count.

        Args:
            subset: The subset as the file calls it.
            has: (N,) which images or slices of the split have it; only their predictions count.

        Raises:
            UserError: A prediction lacks, does not fit the labels, or is none.
        """
        kinds = self.found.subsets[subset]
        known = ('areas', 'mask') if self.dice else ('areas', 'confusion', 'mask')
        kind = self.found.form(subset, known)
        if kind == 'mask':
            return self._of_maps(subset, kinds[kind], has)
        where = f'{kind}/{subset}'
        areas = self._areas(where, kind, kinds[kind])
        true = self._labelled(has)
        there = (areas >= 0).all((1, 2)) & (self.dice | areas[:, 2].any(1))
        if self.dice and self.split.groups is not None:
            has = np.isin(self.units, np.asarray(self.split.groups)[has])
        self._complete(subset, has & ~there & (self.dice | true.any(1)), self.units)
        self._check_areas(where, areas, true, has)
        return {'ids': np.flatnonzero(has), 'areas': areas[has]}, int((there & ~has).sum())

    def _complete(self, subset: str, lost: np.ndarray, names: Sequence[str]) -> None:
        for k in np.flatnonzero(lost)[:1]:
            expected = 'a prediction of every test sample that has it'
            raise self.found.wrong(f'subset {subset}', expected, f'none of {names[k]!r}')

    def _areas(self, where: str, kind: str, given: np.ndarray) -> np.ndarray:
        """Returns areas (U, 3, K) of U units in the order of outcomes."""
        count = len(self.columns)
        shape = (len(self.units), count if kind == 'confusion' else 3, count)
        if given.shape != shape or given.dtype.kind not in 'iu':
            raise self.found.wrong(where, f'integers {shape}', f'{given.dtype} {given.shape}')
        values = given[self.found.order(self.units)].astype(np.int64)
        if kind == 'areas':
            return values
        right = np.diagonal(values, axis1=1, axis2=2)
        # What is less than 0 must not vanish in a sum.
        valid = (values >= 0).all((1, 2))[:, None, None]
        return np.where(valid, np.stack([right, values.sum(1), values.sum(2)], axis=1), -1)

    def _check_areas(
        self, where: str, areas: np.ndarray, true: np.ndarray, has: np.ndarray
    ) -> None:
        """Checks areas against the labelled ones (U, K), of the units (U,) that count."""
        for k, column in np.argwhere((areas[:, 2] != true) & has[:, None])[:1].tolist():
            raise self.found.wrong(
                f'{where} of {self.units[k]!r}',
                f'{true[k, column]} labelled pixels of {self.columns[column]} as in the data set',
                areas[k, 2, column],
            )
        wrong = (areas[:, :1] > areas[:, 1:]).any((1, 2))
        if not self.dice:  # regions overlap, and leave pixels out
            wrong |= areas[:, 1].sum(1) != areas[:, 2].sum(1)
        for k in np.flatnonzero(wrong & has)[:1]:
            raise self.found.wrong(
                f'{where} of {self.units[k]!r}',
                'a predicted class of each labelled pixel, and intersections within both',
                f'{areas[k].tolist()}'[:100],
            )

    def _of_maps(
        self, subset: str, paths: np.ndarray, has: np.ndarray
    ) -> tuple[dict[str, np.ndarray], int]:
        """Measures label maps, whose paths (N,) are relative to the file."""
        given = paths[self.found.order(self.images)]
        there = given != ''
        self._complete(subset, has & ~there, self.images)
        kept = self._measured(np.flatnonzero(has), lambda k: self._map(given[k], k))
        return kept, int((there & ~has).sum())

    def _map(self, path: str, position: int) -> np.ndarray:
        """Reads a label map as large as the data set's own.

        Raises:
            UserError: It cannot be read, has another size, or a value that is no class.
        """
        file, target = self.found.file.parent / path, self._target(position)
        try:
            with Image.open(file) as image:
                labels = np.asarray(image)
        except (OSError, ValueError) as error:
            raise UserError(f'{file}: cannot be read as a label map: {error}') from None
        if labels.shape != target.shape or labels.dtype.kind not in 'iub':
            raise UserError(
                f'{file}: expected numbers of classes {target.shape} as the labels of '
                f'{self.images[position]!r}, found {labels.dtype} {labels.shape}'
            )
        if int(labels.max(initial=0)) >= len(self.task.classes):
            expected = f'classes from 0 to {len(self.task.classes) - 1}'
            raise UserError(f'{file}: expected {expected}, found {labels.max()}')
        return labels
