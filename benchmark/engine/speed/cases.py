"""The experiments that are timed: small embedded data, and random samples of any size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.dataset import Dataset, Split
from benchmark.engine import plan
from benchmark.engine.building import Machine, build
from benchmark.engine.execution import deterministic
from benchmark.engine.experiment import Experiment, experiment
from benchmark.engine.protocol import Protocol
from benchmark.engine.speed.measuring import Sizes
from benchmark.method import Method, Modality, Task
from benchmark.options import Spec

_place = {'machine': Machine('cpu')}


def compute_on(device: str) -> None:
    """Has everything in this process timed on a device, 'cpu' or 'cuda'."""
    _place['machine'] = Machine(device)
    deterministic(machine())


def machine() -> Machine:
    """Returns where everything is timed."""
    return _place['machine']


@contextmanager
def any_kernels() -> Iterator[None]:
    """Lets a GPU compute with kernels that need not give the same numbers every time."""
    deterministic(replace(machine(), deterministic=False))
    try:
        yield
    finally:
        deterministic(machine())


class Noise(Dataset):
    """Random samples of several modalities in two classes; nothing can be learnt from them.

    Args:
        channels: Number of channels of each modality, or of features of a vector.
        side: Height and width of images; 0 for vectors.
        width: Width of the networks.
        batch: Size of a training batch.
        count: Number of samples of each split.
    """

    fingerprint = 'noise'
    embedded = True

    def __init__(
        self, channels: tuple[int, ...], side: int, width: int, batch: int, count: int
    ) -> None:
        sides = (side, side) if side else ()
        modalities = tuple(Modality(f'm{k}', (c, *sides)) for k, c in enumerate(channels))
        self.task = Task('noise', 'classification', modalities, ('a', 'b'), 'accuracy', width)
        self.name, self.spec, self.options, self.count = 'noise', 'noise', {}, count
        self.recipe = {'epochs': 1, 'batch_size': batch, 'lr': 1e-3}

    def split(self, name: str) -> Split:
        """Draws a split."""
        rng = np.random.default_rng(0)
        shapes = {m.name: (self.count, *m.shape) for m in self.task.modalities}
        return Split(
            {m: rng.standard_normal(shape, np.float32) for m, shape in shapes.items()},
            rng.integers(2, size=self.count),
            np.ones((self.count, len(shapes)), bool),
            np.array([f'{name}-{k}' for k in range(self.count)]),
        )


def of_noise(name: str, data: Dataset, folder: Path, **fields: Any) -> Experiment:
    """Returns the experiment of a method on random samples.

    Args:
        name: The method.
        data: The samples.
        folder: Takes what a training writes.
        **fields: Fields of the protocol.
    """
    protocol = Protocol.build(data.recipe, {k: str(v) for k, v in fields.items()}, machine().device)
    return experiment(Spec(name, ()), data, protocol, 0, folder)


def embedded(name: str, dataset: str, sizes: Sizes, folder: Path) -> Experiment:
    """Returns the experiment of a method on an embedded data set.

    Args:
        name: The method, which must have no network for each subset.
        dataset: The data set.
        sizes: Gives the number of training samples; a third of it is tested.
        folder: Takes what a training writes.
    """
    part = max(4, sizes.samples // 3)
    spec = f'{dataset}:train={sizes.samples},val={part},test={part}{sizes.embedded}'
    options = {'batch_size': str(min(64, sizes.samples // 4))}
    request = plan.Request([name], [0], options, folder, machine().device)
    (found,) = plan.flat(plan.experiments(request, plan.open_datasets([spec], [], {})))
    return found


def network(e: Experiment) -> Method:
    """Returns the untrained network of an experiment, with an untrained teacher if it has one.

    Terms of the loss that start late are used.
    """
    method = build(e, machine().device)
    if e.teacher is not None:
        method.set_teacher(build(e.teacher, machine().device))
    method.epochs, method.epoch = 1000, 999
    if hasattr(method, 'strong'):
        method.strong[0] = True  # what MMANet mines in a validation
    return method
