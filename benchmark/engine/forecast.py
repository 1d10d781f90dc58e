"""How long experiments will take, from a few steps measured on this machine."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.optim import build_optim_wrapper
from torch.utils.data import DataLoader

from benchmark.engine.building import Machine, build, loader_of, loaders, quiet
from benchmark.engine.evaluation import SubsetEvaluator, subset_logits
from benchmark.engine.experiment import Experiment, Part
from benchmark.engine.fitting import check_size, is_fitted
from benchmark.engine.loading import split_of
from benchmark.engine.protocol import Protocol
from benchmark.engine.state import epochs_done, is_trained
from benchmark.engine.training import optim_wrapper
from benchmark.method import Method

STEPS = 3
"""Steps that a forecast measures, after one to warm up."""


Measured = tuple[dict[str, float], float, float]
"""Seconds of what is trained before ('pretraining', 'teacher'), of one training, of one test."""


class Schedule:
    """When the jobs of a command will be free, each experiment being taken by the one free first.

    A training is not divided between jobs, and the seeds of a search begin after its trials.

    Args:
        jobs: Number of jobs.

    Attributes:
        free: When each job is free, in seconds from the start.
    """

    def __init__(self, jobs: int) -> None:
        self.free = [0.0] * jobs
        self._tried: dict[int, float] = {}

    def add(self, item: object, seconds: float, trial: bool = False) -> None:
        """Adds an experiment.

        Args:
            item: The item of the grid that it is a part of.
            seconds: How long it will take.
            trial: Whether it is a trial of a search.
        """
        after = 0.0 if trial else self._tried.get(id(item), 0.0)
        end = max(heapq.heappop(self.free), after) + seconds
        heapq.heappush(self.free, end)
        if trial:
            self._tried[id(item)] = max(end, self._tried.get(id(item), 0.0))

    @property
    def end(self) -> float:
        """When everything will have ended, in seconds from the start."""
        return max(self.free)


@dataclass
class Forecast:
    """Forecasts a list of experiments; what several of them share is counted once.

    Attributes:
        machine: Where they will run.
        trained: Folders of the networks that are counted already.
    """

    machine: Machine
    trained: frozenset[Path] = frozenset()
    _measured: dict[tuple[str, str, str, str], Measured] = field(default_factory=dict)

    def is_measured(self, e: Experiment) -> bool:
        """Returns whether the steps of an experiment, or of one that serves it, are measured."""
        return _key(e) in self._measured

    def seconds(self, e: Experiment, tests: bool = True) -> float:
        """Returns the seconds that an experiment will take after those asked about before.

        Args:
            e: The experiment; one measurement serves all seeds and trials of a method under
                a protocol.
            tests: Whether it is tested; a trial is not.
        """
        key = _key(e)
        if key not in self._measured:
            with quiet():
                self._measured[key] = self._measure(e)
        earlier, training, each = self._measured[key]
        seconds = {part.folder: training * _left(part, e) for part in e.parts}
        for kind, x in e.earlier.items():
            seconds[x.folder] = earlier[kind] * _left(x.parts[0], x)
        new = seconds.keys() - self.trained
        self.trained |= new
        testing = each * len(split_of(e.data, 'val')) if tests else 0.0
        return sum(seconds[f] for f in new) + testing

    def _measure(self, e: Experiment) -> Measured:
        """Returns seconds of what is trained before, to train one network, to test one sample.

        How long a fit takes that has no steps is not known; it counts as no time.
        """
        method, earlier = build(e, self.machine.device), dict[str, float]()
        if is_fitted(e.method):
            check_size(e)
            loader = loader_of(e, self.machine, 'val')
            return earlier, 0.0, _rehearse_validation(method, loader, 1, e.subsets)
        for kind, x in e.earlier.items():
            network = build(x, self.machine.device)
            both = loaders(x, x.parts[0], self.machine)
            earlier[kind] = forecast(network, both, x.protocol, x.subsets)[0]
            if x is e.teacher:
                method.set_teacher(network)
        both = loaders(e, e.parts[-1], self.machine)
        training, each = forecast(method, both, e.protocol, e.subsets)
        return earlier, training, each


def _key(e: Experiment) -> tuple[str, str, str, str]:
    """Returns what experiments have in common whose steps take as long."""
    fixed = sorted((k, v) for k, v in e.options.items() if k not in e.tunable)
    return e.data.name, e.protocol_id, e.name, str(fixed)


def resumed(e: Experiment) -> list[str]:
    """Tells which stopped trainings an experiment goes on from, and at which epoch."""
    networks = [(part.only[0] if part.only else 'it', part, e) for part in e.parts]
    before = {'pretraining': 'its pre-training', 'teacher': 'its teacher'}
    networks = [(before[kind], x.parts[0], x) for kind, x in e.earlier.items()] + networks
    done = [(who, _epochs_done(part, x), x.protocol.epochs) for who, part, x in networks]
    return [f'{who} resumes at epoch {n + 1} of {total}' for who, n, total in done if 0 < n < total]


def _epochs_done(part: Part, e: Experiment) -> int:
    identity = e.identity_of(part)
    if is_trained(part.folder, identity):
        return e.protocol.epochs
    return min(epochs_done(part.folder, identity), e.protocol.epochs)


def _left(part: Part, e: Experiment) -> float:
    """Returns the share of a network's training that is still to do."""
    return 1 - _epochs_done(part, e) / e.protocol.epochs


def forecast(
    method: Method,
    loaders: tuple[DataLoader, DataLoader],
    protocol: Protocol,
    subsets: Sequence[str] | None = None,
) -> tuple[float, float]:
    """Measures a few steps and one evaluated batch of an untrained method.

    Args:
        method: The method, with a teacher where it has one; its weights change.
        loaders: Training and validation loaders.
        protocol: Gives epochs and optimiser.
        subsets: The subsets that are tested; all by default.

    Returns:
        Expected seconds of the whole training, and seconds to test one sample on these subsets.
    """
    each = _rehearse_validation(method, loaders[1], protocol.epochs, subsets)
    wrapper = build_optim_wrapper(method, optim_wrapper(protocol))
    batches = itertools.cycle(itertools.islice(iter(loaders[0]), STEPS))
    seconds = []
    for batch in itertools.islice(batches, STEPS + 1):
        start = time.perf_counter()
        method.train().train_step(batch, optim_wrapper=wrapper)
        seconds.append(time.perf_counter() - start)
    return protocol.epochs * len(loaders[0]) * sum(seconds[1:]) / STEPS, each


def _rehearse_validation(
    method: Method, loader: DataLoader, epochs: int, subsets: Sequence[str] | None = None
) -> float:
    """Puts the method in its last-epoch state, so that loss terms that start late are timed.

    Every epoch's validation is given the scores of one batch, for methods that mine there.

    Returns:
        Seconds to test one sample on these subsets, by default on all.
    """
    evaluator = SubsetEvaluator(method.task, subsets)
    batch = method.data_preprocessor(next(iter(loader)), False)
    start = time.perf_counter()
    with torch.no_grad():
        for mask, logits in subset_logits(method.eval(), batch, list(evaluator.masks.values())):
            evaluator.process_subset(mask, logits, batch)
    evaluator.evaluate(len(batch.ids))
    each = (time.perf_counter() - start) / len(batch.ids)
    method.epochs = epochs
    for method.epoch in range(epochs):
        method.on_validation(evaluator.scores)
    return each
