"""Fits a method that is not trained in steps: `benchmark.method.Method.fit`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmark.engine import training
from benchmark.engine.building import Machine, loader_of
from benchmark.engine.experiment import CannotTrain, Experiment, Part
from benchmark.engine.loading import Samples, split_of
from benchmark.engine.parallel import sections
from benchmark.method import Batch, Method

LARGEST = 10**8
"""Numbers of the largest training split that is read at once; in float64 they take 0.8 GB."""


def is_fitted(cls: type[Method]) -> bool:
    """Returns whether a method is fitted to whole splits instead of being trained in steps."""
    return cls.fit is not Method.fit


def fit(method: Method, experiment: Experiment, part: Part, machine: Machine) -> dict[str, Any]:
    """Fits a method to the training split and scores it on the validation split.

    Returns:
        'seconds' of fitting, 'epoch' 0, and the validation 'scores'.

    Raises:
        CannotTrain: The training split is too large, or its rows are larger than the network's
            inputs because training crops them.
    """
    check_size(experiment)
    train, val = (_whole(experiment, name, machine) for name in ('train', 'val'))
    start = time.perf_counter()
    method.eval().fit(train, val)
    seconds = time.perf_counter() - start
    with sections.shared('val', experiment, part, method):
        loader, only = loader_of(experiment, machine, 'val'), experiment.subsets_of(part)
        found = training.test(method, loader, part.folder, machine.device, only).scores
    scores = {s: {'metrics': v.metrics, 'n': v.n} for s, v in found.items()}
    return {'seconds': seconds, 'epoch': 0, 'scores': scores}


def check_size(experiment: Experiment) -> None:
    """Checks that the training split can be read at once.

    Raises:
        CannotTrain: It cannot.
    """
    train, task = split_of(experiment.data, 'train'), experiment.data.task
    where = f'{experiment.label} on {experiment.data.name}: is fitted to the whole training split'
    for modality in task.modalities:
        found = tuple(train.inputs[modality.name].shape[1:])
        if found != modality.shape:
            raise CannotTrain(
                f'{where}, expected {modality.name} {modality.shape}, found {found}, of which '
                'training takes random crops'
            )
    numbers = len(train) * sum(int(np.prod(m.shape)) for m in task.modalities)
    if numbers > LARGEST:
        raise CannotTrain(
            f'{where}, expected at most {LARGEST / 1e6:.0f} million numbers, '
            f'found {numbers / 1e6:.0f} million'
        )


def _whole(experiment: Experiment, name: str, machine: Machine) -> Batch:
    """Returns a split as one batch on the device; samples without any modality are left out."""
    split = split_of(experiment.data, name)
    available = experiment.readable if name == 'train' else split.available
    samples = Samples(split, experiment.data.task, available)
    batch = samples.__getitems__(list(range(len(samples))))
    moved: Batch = tree_map_only(Tensor, lambda x: x.to(machine.device), batch)
    return moved
