"""From a split to the batches that a method sees.

Rows that a sample lacks, in the data or by simulated training gaps, are never read; the batch holds
zeros in their place.
Whole batches are indexed at once, so arrays in memory cost no Python per sample.
"""

from __future__ import annotations

import signal
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmark.dataset import VOID, Dataset, Split, label_maps
from benchmark.engine.mask_schedules import MaskSchedule
from benchmark.engine.parallel import batches
from benchmark.engine.resident import Resident
from benchmark.errors import UserError
from benchmark.method import IGNORE, Batch, Task
from benchmark.missing import Sampler, derive, generator

_OPENED: WeakKeyDictionary[Dataset, dict[str, Split]] = WeakKeyDictionary()
"""Splits that were opened, for as long as their data set is used."""


def split_of(data: Dataset, name: str) -> Split:
    """Returns a split of a data set, which all experiments on it share."""
    opened = _OPENED.setdefault(data, {})
    if name not in opened:
        opened[name] = data.split(name)
    return opened[name]


class Samples(TorchDataset):
    """A split as mmengine's loops want it, with masks.

    Args:
        split: The samples.
        task: Gives the modalities and classes.
        available: (N, M) bool, a part of the split's own; what may be read.
        sampler: Draws training masks; None leaves the mask at all that is available.
        seed: Seed of the masks.
        moved: The arrays of the split on the device, where batches are then made.
        schedule: Changes the sampler's distribution from epoch to epoch.
    """

    def __init__(
        self,
        split: Split,
        task: Task,
        available: np.ndarray,
        sampler: Sampler | None = None,
        seed: int = 0,
        moved: Resident | None = None,
        schedule: MaskSchedule | None = None,
    ) -> None:
        self.moved, self.schedule = moved, schedule
        self.split, self.task, self.available = split, task, available
        self.sampler, self.seed = sampler, seed
        self.metainfo = {'classes': task.classes}
        self.set_epoch(0)
        self.positions = np.flatnonzero(self.mask.any(1))

    def set_epoch(self, epoch: int) -> None:
        """Draws the masks of one epoch; a function of seed, epoch and schedule alone."""
        self.mask = self.available
        if self.sampler is not None:
            self.split = self.split.drawn(derive(self.seed, 'parts', epoch))
            rng = generator(self.seed, 'mask', epoch)
            if self.schedule is None:
                self.mask = self.sampler.draw(self.available, rng)
            else:
                self.mask = self.schedule.draw(self.sampler, self.available, rng, epoch)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """Returns the samples at `indices` as one batch."""
        rows = self.positions[np.asarray(indices)]
        if self.moved is not None:
            self._labels(rows)
            return self.moved.batch(rows, self.available[rows], self.mask[rows])
        return Batch(
            inputs={m: self._read(m, k, rows) for k, m in enumerate(self.task.names)},
            available=torch.from_numpy(self.available[rows]),
            mask=torch.from_numpy(self.mask[rows]),
            target=torch.from_numpy(self._labels(rows)),
            ids=torch.from_numpy(rows),
            places=self._places(rows),
        )

    def _places(self, rows: np.ndarray) -> torch.Tensor | None:
        """Returns where samples that are patches lie, as `Batch.places`; None of others."""
        corners = getattr(self.split.target, 'corners', None)
        if corners is None:
            return None
        begin = torch.from_numpy(corners(rows))
        return torch.stack([begin, torch.ones_like(begin)], -1)

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        """Reads labels, of training as of both other splits.

        Raises:
            UserError: A label is no class. On a GPU it would end the process in the loss.
        """
        if self.task.kind in ('multilabel', 'regression'):
            return self._columns(rows)
        labels, classes = np.asarray(self.split.target[rows]), len(self.task.classes)
        wrong = (labels < 0) | (labels >= classes)
        ignored = ''
        if self.task.kind == 'segmentation':
            void = VOID if classes <= VOID else IGNORE
            wrong &= labels != void
            ignored = f', or {void} where nothing is labelled'
        if wrong.any():
            first = np.argwhere(wrong)[0]
            raise UserError(
                f'{self.task.dataset}: label of sample {self.split.ids[rows[first[0]]]}: expected '
                f'0 to {classes - 1}{ignored}, found {labels[tuple(first)]}'
            )
        return label_maps(labels, self.task) if ignored else labels.astype(np.int64)

    def _columns(self, rows: np.ndarray) -> np.ndarray:
        """Reads several labels or the values of a regression, (B, K).

        Raises:
            UserError: There is not a column for each, or one is neither 0 nor 1, or not finite.
        """
        values = np.asarray(self.split.target[rows])
        values = values.reshape(len(rows), -1)
        labels = self.task.kind == 'multilabel'
        right = np.isin(values, (0, 1)) if labels else np.isfinite(values)
        expected = f'{len(self.task.classes)} {"labels 0 or 1" if labels else "finite numbers"}'
        for row in np.flatnonzero(~right.all(1))[:1] if len(rows) else ():
            name = self.split.ids[rows[row]]
            raise UserError(
                f'{self.task.dataset}: target of sample {name}: expected {expected}, '
                f'found {values[row].tolist()}'
            )
        if values.shape[1] != len(self.task.classes):
            raise UserError(
                f'{self.task.dataset}: target: expected {expected}, found {values.shape[1]}'
            )
        return values.astype(np.int64 if labels else np.float32)

    def _read(self, name: str, column: int, rows: np.ndarray) -> torch.Tensor:
        there = self.available[rows, column]
        source = self.split.inputs[name]
        if there.all():
            return torch.from_numpy(np.asarray(source[rows], dtype=np.float32))
        values = np.zeros((len(rows), *source.shape[1:]), np.float32)
        if there.any():
            values[there] = source[rows[there]]
        return torch.from_numpy(values)


def _as_is(batch: Any) -> Any:
    return batch


def _ignore_as_before(_worker: int) -> None:
    """Makes a loader process ignore SIGTERM where its command does, as a task of Slurm does.

    It inherits that, but PyTorch replaces it in its loader processes.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def check_sampling(sampling: str, task: Task) -> None:
    """Checks that training samples can be drawn in some way.

    Raises:
        UserError: Classes are to be balanced, and samples do not have one class each.
    """
    if sampling == 'balanced' and task.kind != 'classification':
        raise UserError(
            f'sampling=balanced on {task.dataset}: expected a classification task, whose samples '
            f'have one class each, found {task.kind}'
        )


def balancing(samples: Samples) -> np.ndarray:
    """Returns for each sample one divided by the number of samples of its class, (n,)."""
    labels = np.asarray(samples.split.target[samples.positions])
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / counts[place]


def train_loader(
    samples: Samples, batch_size: int, workers: int, pin: bool, sampling: str = 'shuffled'
) -> DataLoader:
    """Returns the shuffled loader of training; the order depends on (seed, epoch) alone.

    Args:
        samples: The training split with its masks.
        batch_size: Samples in a step.
        workers: Loader processes.
        pin: Whether memory is pinned.
        sampling: 'shuffled' or 'balanced', as in `benchmark.engine.protocol.Protocol`.

    Raises:
        UserError: No sample can train under the sampler and the gaps.
    """
    if len(samples) < 2:
        raise UserError(
            f'{samples.task.dataset}: expected at least 2 training samples that have a subset of '
            f'sampler {samples.sampler.spec if samples.sampler else "complete"!r}, '
            f'found {len(samples)}'
        )
    return DataLoader(
        samples,
        **batches.training(
            samples,
            min(batch_size, len(samples)),
            derive(samples.seed, 'order'),
            samples.task.dataset,
            balancing(samples) if sampling == 'balanced' else None,
        ),
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_as_is,
        worker_init_fn=_ignore_as_before,
    )


def test_loader(samples: Samples, batch_size: int, workers: int, pin: bool) -> DataLoader:
    """Returns the loader of validation and test: in order, every sample once."""
    return DataLoader(
        samples,
        **batches.testing(samples, batch_size),
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_as_is,
        worker_init_fn=_ignore_as_before,
    )
