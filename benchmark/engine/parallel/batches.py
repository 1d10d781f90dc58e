"""Which samples each of several processes loads."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler
from torch.utils.data import BatchSampler, Sampler, WeightedRandomSampler

from benchmark.engine.parallel import exchange, processes
from benchmark.errors import UserError


class OwnRows(Sampler[list[int]]):
    """The own rows of every batch, for a training.

    Args:
        batches: The batches of one process.

    Attributes:
        size: Number of samples of a batch.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches, self.size = batches, batches.batch_size
        # mmengine tells the epoch to the sampler that it finds here.
        self.sampler = batches.sampler

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            begin, end, _ = exchange.own(len(batch))
            yield batch[begin:end]

    def __len__(self) -> int:
        return len(self.batches)


class OwnBatches(Sampler[list[int]]):
    """Every n-th batch as a whole, for a test by n processes.

    A batch is then computed as one process does, and no sample is tested twice.

    Args:
        batches: The batches of one process.
    """

    def __init__(self, batches: BatchSampler) -> None:
        self.batches = batches
        self.sampler = batches.sampler

    def __iter__(self) -> Iterator[list[int]]:
        for number, batch in enumerate(self.batches):
            if number % processes.world() == processes.rank():
                yield batch

    def __len__(self) -> int:
        return len(range(processes.rank(), len(self.batches), processes.world()))


class Balanced(DefaultSampler):
    """As many draws as there are samples, with replacement; a function of seed and epoch alone.

    Args:
        samples: The samples.
        seed: Seed of the draws.
        weights: (n,) what the probability of each sample is proportional to.
    """

    def __init__(self, samples: Sized, seed: int, weights: np.ndarray) -> None:
        super().__init__(samples, shuffle=True, seed=seed)
        self.weights = torch.from_numpy(weights)

    def __iter__(self) -> Iterator[int]:
        drawn = torch.Generator().manual_seed(self.seed + self.epoch)
        weights: Any = self.weights
        return iter(WeightedRandomSampler(weights, len(weights), generator=drawn))


def training(
    samples: Sized, size: int, seed: int, name: str, weights: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns what a loader needs to know of the batches of a training, in a random order.

    Args:
        samples: The samples.
        size: Number of samples in a batch.
        seed: Seed of the order.
        name: Name of the data set, for the message.
        weights: (n,) what the probability to be drawn is proportional to, for each sample; without
            them every sample is drawn once.

    Raises:
        UserError: There are more processes than samples in a batch.
    """
    shuffled = DefaultSampler(samples, shuffle=True, seed=seed)
    sampler = _all(shuffled if weights is None else Balanced(samples, seed, weights))
    count = processes.world()
    if count == 1:
        return {'sampler': sampler, 'batch_size': size, 'drop_last': True}
    if size < count:
        raise UserError(
            f'{name}: expected batches of {count} samples or more for {count} processes, '
            f'found {size}'
        )
    return {'batch_sampler': OwnRows(BatchSampler(sampler, size, drop_last=True))}


def testing(samples: Sized, size: int) -> dict[str, Any]:
    """Returns what a loader needs to know of the batches of a test: in order, every sample once.

    Args:
        samples: The samples.
        size: Number of samples in a batch.
    """
    sampler = _all(DefaultSampler(samples, shuffle=False))
    if processes.world() == 1:
        return {'sampler': sampler, 'batch_size': size}
    return {'batch_sampler': OwnBatches(BatchSampler(sampler, size, drop_last=False))}


def _all(sampler: DefaultSampler) -> DefaultSampler:
    """Lets a sampler name all samples; in several processes mmengine's names a share of them."""
    sampler.rank, sampler.world_size = 0, 1
    sampler.num_samples = sampler.total_size = len(sampler.dataset)
    return sampler
