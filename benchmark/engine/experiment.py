"""One experiment: a method with its options on a data set under a protocol with a seed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark import tested
from benchmark.dataset import Dataset
from benchmark.engine import (
    backbones,
    gaps,
    listing_all,
    pretraining,
    state,
    surfaces,
    together,
    values,
)
from benchmark.engine.description import described
from benchmark.engine.places import part_name, place
from benchmark.engine.protocol import Protocol
from benchmark.errors import COMPLETE_ONLY, UserError
from benchmark.method import Method, Task
from benchmark.options import Spec
from benchmark.records import store
from benchmark.records.schema import SCHEMA
from benchmark.registry import METHODS, file_of, lookup
from benchmark.search import Distribution, check_space
from benchmark.source import code_of


class CannotTrain(UserError):
    """The method cannot train on these data: a refusal, not a failure."""


class Part(NamedTuple):
    """One of the networks that an experiment trains.

    Attributes:
        folder: Where its checkpoint and log go.
        sampler: Its training sampler.
        only: The subset that it is for; None for all.
    """

    folder: Path
    sampler: str
    only: list[str] | None


@dataclass(frozen=True)
class Experiment:
    """What is trained and tested, and where its files go; nothing here changes while it runs.

    Attributes:
        name: Registered name of the method.
        options: Every option of the method with the value that applies.
        data: The data set.
        protocol: The training and selection rules.
        seed: Seed of weights, masks and order.
        folder: Where its files go.
        label: Name of its row in tables.
        source: Who chose the options: 'default', 'paper settings', 'settings.json', 'given' or
            'tuned'.
        tunable: The options that a search could choose.
        teacher: The experiment that trains the method's teacher, if it has one.
        pretraining: The experiment that trains the encoders first, where the protocol asks for it.
        search: The search that chose the options, as the record holds it.
        trial: Whether this is one setting of a search, which is scored on the validation split
            alone and leaves a result instead of a record.
    """

    name: str
    options: dict[str, Any]
    data: Dataset
    protocol: Protocol
    seed: int
    folder: Path
    label: str
    source: str
    tunable: tuple[str, ...] = ()
    teacher: Experiment | None = None
    pretraining: Experiment | None = None
    search: Mapping[str, Any] | None = None
    trial: bool = False

    @property
    def method(self) -> type[Method]:
        """The method's class."""
        return lookup(METHODS, self.name)

    @property
    def code(self) -> str:
        """Hash of the source code of the method and of those whose weights it uses."""
        return code_of(*pretraining.needed(self.method, self.protocol.pretrain))

    @property
    def task(self) -> Task:
        """The task of the data set, with what the protocol chooses for all methods."""
        return backbones.task_of(self.data.task, self.protocol)

    @property
    def earlier(self) -> dict[str, Experiment]:
        """What is trained before it, in order: 'pretraining' and 'teacher', where it has them."""
        both = {'pretraining': self.pretraining, 'teacher': self.teacher}
        return {kind: e for kind, e in both.items() if e is not None}

    @functools.cached_property
    def protocol_id(self) -> str:
        """The protocol's folder name on these data."""
        return self.protocol.id(self.data.fingerprint)

    @property
    def sampler(self) -> str:
        """The training sampler: the method's own where it has one."""
        return self.method.sampler or self.protocol.sampler

    @property
    def parts(self) -> list[Part]:
        """The networks to train: one, or for a dedicated method one per tested subset."""
        if not self.method.dedicated:
            return [Part(self.folder, self.sampler, None)]
        return [Part(self.folder / part_name(s), f'only:{s}', [s]) for s in self.subsets]

    @functools.cached_property
    def subsets(self) -> list[str]:
        """The subsets that are validated and tested, the complete set last."""
        return tested.tested(self.protocol.subsets, self.data.task.names)

    @functools.cached_property
    def readable(self) -> np.ndarray:
        """What of the training split may be read, (N, M) bool: what it has, less training gaps.

        Raises:
            CannotTrain: The method needs complete data, and these are not, or goes through all
                subsets of more modalities than can be listed.
        """
        if why := listing_all.refusal(self.name, len(self.data.task.names)):
            raise CannotTrain(f'{self.label} on {self.data.name}: {why}')
        kept = gaps.kept(self.data, self.protocol, self.seed)
        if self.method.needs_complete and (count := int((~kept.all(1)).sum())):
            have = 'has' if count == 1 else 'have'
            raise CannotTrain(
                f'{self.label} on {self.data.name}: this method {COMPLETE_ONLY}, '
                f'and {count} of {len(kept)} training samples {have} gaps'
            )
        return kept

    def check(self) -> None:
        """Checks what can be checked without data.

        Raises:
            UserError: Network, sampler, gaps, HD95 or pre-training do not fit the method and data.
        """
        given = self.label, self.name, self.options, self.task
        together.check(*given, self.protocol)
        surfaces.check(self.data)
        if self.pretraining is not None:
            pretraining.check(*given, self.protocol.pretrain)

    @functools.cached_property
    def header(self) -> dict[str, Any]:
        """The part of the record that is known before anything runs."""
        header: dict[str, Any] = {
            'schema': SCHEMA,
            'method': {
                'name': self.name,
                'label': self.label,
                'options': self.method.recorded(self.options),
                'version': self.method.version,
                'source': self.source,
                'tunable': list(self.tunable),
                'code': self.code,
            },
            'dataset': {**described(self.data), 'encoder': self.task.encoder},
            'protocol': self.protocol.recorded(),
            'protocol_id': self.protocol_id,
            'seed': self.seed,
        }
        if self.search is not None:
            header['tuning'] = dict(self.search)
        return {**header, 'identity': store.identity(header)}

    @property
    def identity(self) -> str:
        """Hash of all that can change a score."""
        return self.header['identity']

    @property
    def about(self) -> dict[str, Any]:
        """What the experiment is, as a list of runs tells it."""
        own = {'dataset': self.data.name, 'method': self.label, 'seed': self.seed}
        return {**own, 'protocol': self.protocol_id, **self.protocol.recorded()}

    def subsets_of(self, part: Part) -> list[str]:
        """Returns the subsets that one of the networks is validated and tested on."""
        return part.only or self.subsets

    def identity_of(self, part: Part) -> str:
        """Returns the identity of one of the networks: that of the experiment, and its subset."""
        return '/'.join([self.identity, *(part.only or [])])

    def recorded(self) -> Mapping[str, Any] | None:
        """Returns this experiment's complete record; names one that is damaged or not proven."""
        file = self.folder / store.RECORD
        found, why = store.proven(file, self.identity)
        if why:
            state.name(file, why)
        return found

    @property
    def has_other_code(self) -> bool:
        """Whether a complete record differs from this experiment in the method's code alone."""
        try:
            found = store.read(self.folder / store.RECORD)
        except (store.RecordError, OSError):
            return False
        ours = {**found, 'method': {**found['method'], 'code': self.code}}
        is_ours = store.identity(ours) == self.identity != found['identity']
        return is_ours and found['status'] == 'complete'


def experiment(
    spec: Spec, data: Dataset, protocol: Protocol, seed: int, results: Path, chosen: bool = True
) -> Experiment:
    """Returns the experiment of a method spec with a seed, without tuning.

    Options that were given the value that applies anyway are no options: `mmanet:alpha=30` is
    `mmanet` where alpha is 30.

    Args:
        spec: The method, with the options that were typed.
        data: The data set.
        protocol: The training and selection rules.
        seed: Seed of weights, masks and order.
        results: Results folder.
        chosen: Whether `results/settings.json` is needed (`benchmark.engine.values`).

    Raises:
        UserError: An option does not exist, or its value does not fit.
    """
    cls = lookup(METHODS, spec.name)
    differing = values.shortened(spec, data.task.dataset, chosen)
    options = values.usual(differing, data.task.dataset, chosen)
    label, teacher = str(differing), cls.teacher and Spec(cls.teacher)
    return Experiment(
        name=spec.name,
        options=options,
        data=data,
        protocol=protocol,
        seed=seed,
        folder=place(results, 'runs', data, label, protocol.id(data.fingerprint)) / f'seed{seed}',
        label=label,
        source=_source(differing, options, data.task.dataset),
        tunable=tuple(search_space(differing, options)),
        teacher=(experiment(teacher, data, protocol, seed, results, chosen) if teacher else None),
        pretraining=_pretraining(cls, data, protocol, seed, results, chosen),
    )


def _pretraining(
    cls: type[Method], data: Dataset, protocol: Protocol, seed: int, results: Path, chosen: bool
) -> Experiment | None:
    """Returns the experiment that trains the encoders of a method first, if there is one."""
    if not protocol.pretrain or cls.fit is not Method.fit:
        return None  # a method that is fitted has no encoders, as it has no epochs
    pretraining.method_of(protocol.pretrain)
    return experiment(Spec(protocol.pretrain), data, protocol.first, seed, results, chosen)


def _source(differing: Spec, options: dict[str, Any], dataset: str) -> str:
    """Says who chose the options of a method, given its spec without what applies anyway."""
    if differing.given:
        return 'given'
    if values.sources(differing.name, options, dataset):
        return 'settings.json'
    paper = lookup(METHODS, differing.name).settings.get(dataset)
    return 'paper settings' if paper else 'default'


def search_space(spec: Spec, options: dict[str, Any]) -> dict[str, Distribution]:
    """Returns what a search may choose: the method's search space less options given or in vain.

    Args:
        spec: The method with the options that stay as they are.
        options: Every option with the value that applies without tuning.

    Raises:
        UserError: The method declares an option that it does not have, or no distribution.
    """
    cls = lookup(METHODS, spec.name)
    declared = cls.search_space(options)
    check_space(str(file_of(cls)), spec.name, declared, options)
    fixed = {*dict(spec.given), *cls.idle(options)}
    return {key: d for key, d in sorted(declared.items()) if key not in fixed}
