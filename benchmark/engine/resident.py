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
"""Bytes of a split, and of all splits together, that may lie on a device for each process."""


class Resident:
    """The arrays of a split on a device, in the types that they have in memory.

    Args:
        split: The split, all of whose rows are arrays.
        task: Gives the modalities.
        device: Where the arrays go.
    """

    def __init__(self, split: Split, task: Task, device: str) -> None:
        self.device, self.size = device, _bytes(split)
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
        # PyTorch has no arrays in the byte order of other machines.
        native = np.ascontiguousarray(values, values.dtype.newbyteorder('='))
        return torch.from_numpy(native).to(self.device, non_blocking=True)


_MOVED: WeakKeyDictionary[Dataset, dict[tuple[str, str], Resident | None]] = WeakKeyDictionary()
"""Splits that were tried, for as long as their data set is used."""


def _bytes(split: Split) -> int:
    """Returns the size of a split of arrays in memory; -1 if it holds anything else."""
    found = [split.target, *split.inputs.values()]
    arrays = [x for x in found if type(x) is np.ndarray]
    return sum(x.nbytes for x in arrays) if len(arrays) == len(found) else -1


def _make_room(data: Dataset, needed: int) -> bool:
    """Forgets splits of other data sets if all of them would be too large; says if there is room.

    Args:
        data: The data set that is used now.
        needed: Bytes that it needs beside what lies on the device.
    """

    def held() -> int:
        return sum(x.size for moved in _MOVED.values() for x in moved.values() if x is not None)

    if held() + needed > LIMIT:
        for other in [other for other in _MOVED if other is not data]:
            del _MOVED[other]
    return held() + needed <= LIMIT


def resident(data: Dataset, name: str, split: Split, device: str) -> Resident | None:
    """Returns a split on a device, which all experiments share; None if it should stay where it is.

    Data that are decoded as they are read stay there, and so do arrays larger than `LIMIT`, those
    that lie in a file, those of types that PyTorch lacks, and those for which the device has no
    memory left. Where several data sets together are larger, those used before make room.

    Args:
        data: The data set.
        name: The name of the split.
        split: The split.
        device: 'cpu' or 'cuda'.
    """
    moved = _MOVED.setdefault(data, {})
    if (name, device) not in moved:
        moved[name, device] = None
        size = _bytes(split)
        if 0 <= size <= LIMIT and _make_room(data, size):
            # A type of numbers that PyTorch lacks, or a device that other processes have filled.
            with contextlib.suppress(TypeError, torch.OutOfMemoryError):
                moved[name, device] = Resident(split, data.task, device)
    return moved[name, device]
