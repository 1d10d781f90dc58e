"""How long a loop over batches takes, from a few of them that are measured."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.utils.data import DataLoader

from benchmark.method import Batch

STEPS = 3
"""Batches that are measured, after one to warm up and the first one of a loop."""

PATIENCE = 5.0
"""Seconds of a first batch after which no further ones are measured."""


class Pace(NamedTuple):
    """Seconds of a loop over a loader, from the fetch of a batch to the end of what it is for.

    Attributes:
        first: The first batch, for which loader processes have to start.
        later: Each further one.
    """

    first: float
    later: float

    def seconds(self, batches: float) -> float:
        """Returns how long a loop takes.

        Args:
            batches: Number of batches; a part of one costs its share.
        """
        return min(batches, 1.0) * self.first + max(batches - 1.0, 0.0) * self.later


def now(device: str) -> float:
    """Returns the time once a device has done all that it was given.

    Launching a kernel on a GPU takes no time worth counting; the kernel does.

    Args:
        device: 'cpu' or 'cuda', the current GPU.
    """
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(loader: DataLoader, work: Callable[[Batch], object], device: str) -> Pace:
    """Measures the pace of a loop over a loader; few batches are read, since they may be large.

    The loop is begun twice. The first time, in which memory is requested, kernels are chosen and
    files are opened, does not count. Short loops are measured several times.

    Args:
        loader: The loader.
        work: What is done with each batch.
        device: 'cpu' or 'cuda'.
    """
    _begin(loader, work, device)
    paces = [_loop(loader, work, device)]
    if paces[0].first <= PATIENCE:
        paces += [_loop(loader, work, device) for _ in range((STEPS - 1) // len(loader))]
    return Pace(*map(statistics.fmean, zip(*paces, strict=True)))


def _loop(loader: DataLoader, work: Callable[[Batch], object], device: str) -> Pace:
    """Measures the first batches of a loop.

    n loader processes read n batches at a time, which come together: where reading may be what
    takes long, as many batches are measured as the processes read, or a multiple of these.
    """
    batches, waited, worked = _begin(loader, work, device)
    first, readers = waited + worked, loader.num_workers
    if first > PATIENCE:
        return Pace(first, max(worked, waited / readers) if readers else first)
    count = STEPS
    if readers and waited > readers * worked:
        count = math.ceil(STEPS / readers) * readers
    count = min(count, len(loader) - 1)
    if not count:
        return Pace(first, first)
    start = now(device)
    for batch in itertools.islice(batches, count):
        work(batch)
    return Pace(first, (now(device) - start) / count)


def _begin(
    loader: DataLoader, work: Callable[[Batch], object], device: str
) -> tuple[Iterator[Batch], float, float]:
    """Begins a loop; returns its further batches, and seconds to fetch and to compute the first."""
    start = now(device)
    batches = iter(loader)
    batch = next(batches)
    fetched = now(device)
    work(batch)
    return batches, fetched - start, now(device) - fetched
