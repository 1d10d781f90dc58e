"""Data that lie on the device as a whole, so that no batch has to be copied there."""

from __future__ import annotations

import contextlib
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from benchmark.dataset import VOID, Dataset, Split
from benchmark.method import IGNORE, Batch, Task

LIMIT = 2**31
"""Bytes of a split that may lie on a device; every process has its own copy."""


class Resident:
    """The arrays of a split on a device, in the types that they have in memory.

    Args:
        split: The split, all of whose rows are arrays.
        task: Gives the modalities.
        device: Where the arrays go.
    """

    def __init__(self, split: Split, task: Task, device: str) -> None:
        self.device = device
        self.inputs = {m: self._moved(np.asarray(split.inputs[m])) for m in task.names}
        self.target = self._moved(np.asarray(split.target))
        if task.kind in ('multilabel', 'regression'):
            self.target = self.target.reshape(len(split), -1)
        self.real = task.kind == 'regression'
        self.void = task.kind == 'segmentation' and len(task.classes) <= VOID

    def batch(self, rows: np.ndarray, available: np.ndarray, mask: np.ndarray) -> Batch:
        """Returns some samples as one batch on the device, without a wait for it.

        Args:
            rows: (B,) positions in the split.
            available: (B, M) bool, what may be read; the batch has zeros for the rest.
            mask: (B, M) bool, what the network may use.
        """
        ids, there = self._moved(rows), self._moved(available)
        inputs = {}
        for column, (name, values) in enumerate(self.inputs.items()):
            x = values[ids].float()
            keep = there[:, column].reshape(-1, *[1] * (x.ndim - 1))
            # A selection: what is hidden may be NaN.
            inputs[name] = torch.where(keep, x, 0.0)
        target = self.target[ids]
        target = target.float() if self.real else target.long()
        if self.void:
            target = torch.where(target == VOID, IGNORE, target)
        return Batch(inputs, there, self._moved(mask), target, ids)

    def _moved(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device, non_blocking=True)


_MOVED: WeakKeyDictionary[Dataset, dict[tuple[str, str], Resident | None]] = WeakKeyDictionary()
"""Splits that were tried, for as long as their data set is used."""


def resident(data: Dataset, name: str, split: Split, device: str) -> Resident | None:
    """Returns a split on a device, which all experiments share; None if it should stay where it is.

    Data that are decoded as they are read stay there, and so do arrays larger than `LIMIT`, those
    that lie in a file, and those of types that PyTorch lacks.

    Args:
        data: The data set.
        name: The name of the split.
        split: The split.
        device: 'cpu' or 'cuda'.
    """
    moved = _MOVED.setdefault(data, {})
    if (name, device) not in moved:
        moved[name, device] = None
        arrays = [split.target, *split.inputs.values()]
        bytes_of = [x.nbytes for x in arrays if type(x) is np.ndarray]
        if len(bytes_of) == len(arrays) and sum(bytes_of) <= LIMIT:
            with contextlib.suppress(TypeError):  # of a type of numbers that PyTorch lacks
                moved[name, device] = Resident(split, data.task, device)
    return moved[name, device]
