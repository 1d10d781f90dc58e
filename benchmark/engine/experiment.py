"""One (method, dataset, protocol, seed): its names, its identity, and what it is made of."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmark.dataset import Dataset, Split
from benchmark.engine.loading import Samples, test_loader, train_loader
from benchmark.engine.protocol import Protocol
from benchmark.errors import COMPLETE_ONLY, UserError, unknown
from benchmark.method import Method
from benchmark.missing import (
    Sampler,
    derive,
    hide,
    parse_rates,
    subset_ids,
)
from benchmark.records import store
from benchmark.records.metrics import higher_is_better
from benchmark.registry import METHODS, lookup, resolve_options
from benchmark.search import Distribution

Part = tuple[Path, str, list[str] | None]
"""One network of an experiment: its folder, its training sampler, the subsets it is for."""


@dataclass(frozen=True)
class Machine:
    """Where and how to compute; nothing here may change a score's meaning.

    Attributes:
        device: 'cpu' or 'cuda'.
        workers: Loader processes; by default none for data in memory and one per core, up to 8,
            for data that are decoded as they are read.
    """

    device: str
    workers: int | None = None

    def loader(self, data: Dataset) -> tuple[int, bool]:
        """Returns how many loader processes these data get, and whether memory is pinned."""
        workers = self.workers
        if workers is None:
            workers = min(8, os.cpu_count() or 1) if data.streams else 0
        return workers, self.device == 'cuda'


@dataclass(frozen=True)
class Experiment:
    """One row's one seed.

    Attributes:
        name: Registered name of the method.
        given: Options from the command line, as text.
        data: The dataset.
        protocol: The rules.
        seed: The seed.
        results: Results folder.
    """

    name: str
    given: tuple[tuple[str, str], ...]
    data: Dataset
    protocol: Protocol
    seed: int
    results: Path

    @property
    def method(self) -> type[Method]:
        """The method's class."""
        return lookup(METHODS, self.name)

    @property
    def spec(self) -> str:
        """The method with the options that were given."""
        tail = ','.join(f'{k}={v}' for k, v in sorted(self.given))
        return f'{self.name}:{tail}' if tail else self.name

    @property
    def label(self) -> str:
        """The row's name."""
        return self.spec

    @functools.cached_property
    def untuned(self) -> dict[str, Any]:
        """Every hyper-parameter with the value that applies without tuning."""
        settings = self.method.settings.get(self.data.task.dataset, {})
        return resolve_options(self.method, self.name, dict(self.given), settings)

    @property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter with the value that applies."""
        return self.untuned

    @functools.cached_property
    def space(self) -> dict[str, Distribution]:
        """What can be tuned: the method's search space less the options that were given.

        Raises:
            UserError: The method declares a hyper-parameter that it does not have.
        """
        declared = self.method.search_space(self.untuned)
        for key in declared:
            if key not in self.untuned:
                raise unknown(f'option in the search space of {self.name}', key, self.untuned)
        return {k: d for k, d in sorted(declared.items()) if k not in dict(self.given)}

    @functools.cached_property
    def protocol_id(self) -> str:
        """The protocol's folder name on these data."""
        return self.protocol.id(self.data.fingerprint)

    @property
    def folder(self) -> Path:
        """Where this experiment's files go."""
        return self.place('runs') / f'seed{self.seed}'

    def place(self, kind: str, suffix: str = '') -> Path:
        """Returns the folder of this variant's 'runs' or trials of 'tuning', all seeds together."""
        variant = self.spec.replace(':', '-').replace('/', '_') + suffix
        return self.results / kind / self.data.name / variant / self.protocol_id

    @property
    def sampler(self) -> str:
        """The training sampler: the method's own where it has one."""
        return self.method.sampler or self.protocol.sampler

    @property
    def rates(self) -> np.ndarray:
        """The protocol's missing rate of each modality in training, (M,)."""
        given = self.protocol.rates
        return parse_rates(given or '0', self.data.task.names, f'rates={given}')

    def teacher(self) -> Experiment | None:
        """The experiment that trains this method's teacher: same data, protocol and seed."""
        if self.method.teacher is None:
            return None
        return Experiment(
            self.method.teacher, (), self.data, self.protocol, self.seed, self.results
        )

    def parts(self) -> list[Part]:
        """Returns (folder, sampler, subsets) of each network: one, or one per subset."""
        if not self.method.dedicated:
            return [(self.folder, self.sampler, None)]
        ids = subset_ids(self.data.task.names)
        return [(self.folder / s, f'only:{s}', [s]) for s in ids]

    def ready(self) -> None:
        """Checks that what must come before has run; raises UserError where it has not."""

    def check(self) -> None:
        """Checks what can be checked without data.

        Raises:
            UserError: An option, the sampler or the rates do not fit the method and dataset.
        """
        self.method.check_network(self.data.task)
        assert self.space is not None
        assert self.rates is not None
        Sampler(self.protocol.sampler, self.data.task.names)

    @property
    def source(self) -> str:
        """Who chose the options."""
        settings = self.method.settings.get(self.data.task.dataset)
        return 'given' if self.given else 'paper settings' if settings else 'default'

    def header(self) -> dict[str, Any]:
        """Returns the part of the record that is known before anything runs."""
        task = self.data.task
        header: dict[str, Any] = {
            'schema': store.SCHEMA,
            'method': {
                'name': self.name,
                'label': self.label,
                'options': self.options,
                'version': self.method.version,
                'source': self.source,
                'tunable': list(self.space),
            },
            'dataset': {
                'name': self.data.name,
                'options': self.data.options,
                'fingerprint': self.data.fingerprint,
                'kind': task.kind,
                'modalities': list(task.names),
                'classes': list(task.classes),
                'metric': task.metric,
                'higher_is_better': higher_is_better(task.metric),
                'live': task.live,
                'ceiling': self.data.bounds[0],
                'chance': self.data.bounds[1],
            },
            'protocol': self.protocol.recorded(),
            'protocol_id': self.protocol_id,
            'seed': self.seed,
        }
        return {**header, 'identity': store.identity(header)}

    def recorded(self) -> Mapping[str, Any] | None:
        """Returns this experiment's complete record, if there is one."""
        try:
            found = store.read(self.folder / 'record.json')
        except (store.RecordError, OSError):
            return None
        same = found['identity'] == self.header()['identity']
        return found if same and found['status'] == 'complete' else None


def build(experiment: Experiment, device: str) -> Method:
    """Returns the method with weights drawn from the experiment's seed alone."""
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(derive(experiment.seed, 'weights'))
        method = experiment.method(experiment.data.task, **experiment.options)
        method.init_weights()
    # Convolutions run 1.1 to 1.3 times as fast in this layout on CPUs, and tensor cores want it.
    method = method.to(device, memory_format=torch.channels_last)
    if device == 'cpu':
        keep_plain_layout(method)
    return method


def keep_plain_layout(module: nn.Module) -> None:
    """Keeps the convolutions that oneDNN breaks in channels_last out of that layout.

    On CPUs without AVX-512 the backward pass of a strided 1x1 convolution with 2 to 6 input
    channels writes outside its memory when its weights or its input are channels_last
    (PyTorch 2.13); the process then hangs or dies. In the plain layout it does not. The bound of 8
    leaves a margin.
    """
    for conv in module.modules():
        if not isinstance(conv, nn.Conv2d) or max(conv.kernel_size) > 1:
            continue
        if max(conv.stride) > 1 and conv.in_channels // conv.groups < 8:
            conv.to(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_plain_input)


def _plain_input(_module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return arguments[0].contiguous(), *arguments[1:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences mmengine outside a run, as when it logs every parameter's initialisation."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def gaps(experiment: Experiment, train: Split) -> np.ndarray:
    """Returns what of the training split may be read: what it has, less the protocol's gaps.

    Raises:
        UserError: The method needs complete data and these are not.
    """
    kept = hide(train.available, train.ids, experiment.rates, derive(experiment.seed, 'gaps'))
    if experiment.method.needs_complete and not kept.all():
        raise UserError(
            f'{experiment.label} on {experiment.data.name}: this method {COMPLETE_ONLY}, '
            f'and {int((~kept.all(1)).sum())} of {len(kept)} training samples have gaps'
        )
    return kept


def loaders(experiment: Experiment, part: Part, machine: Machine) -> tuple[DataLoader, DataLoader]:
    """Returns the training and validation loaders of one network."""
    task, protocol = experiment.data.task, experiment.protocol
    train, val = splits(experiment.data, 'train'), splits(experiment.data, 'val')
    workers, pin = machine.loader(experiment.data)
    sampler = Sampler(part[1], task.names)
    samples = Samples(train, task, gaps(experiment, train), sampler, experiment.seed)
    held_out = Samples(val, task, val.available)
    return (
        train_loader(samples, protocol.batch_size, workers, pin),
        test_loader(held_out, 2 * protocol.batch_size, workers, pin),
    )


def splits(data: Dataset, name: str) -> Split:
    """Returns a split, kept on the dataset so that experiments share it."""
    kept = data.__dict__.setdefault('_splits', {})
    if name not in kept:
        kept[name] = data.split(name)
    return kept[name]
