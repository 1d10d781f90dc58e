"""Which modalities of the training samples may be read: what they have, less training gaps.

The gaps are simulated by the fields `rates` and `mechanism` of a protocol, or come from a file
(`benchmark.engine.manifest`). Nothing but the training split is read for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from benchmark.dataset import Dataset
from benchmark.engine.loading import split_of
from benchmark.engine.protocol import Protocol
from benchmark.errors import UserError, nearest, unknown
from benchmark.method import Task
from benchmark.missing import derive, hide, parse_rates, spell_rates

CLASS = 'class'
"""Stands for the label of a sample in a mechanism."""

KINDS = 'mcar', 'mar', 'mnar'
MECHANISMS = ('mcar', 'mar:MODALITY', 'mar:class', 'mnar')

CHUNK = 64
"""Samples that are read at once to compute a statistic."""

GIVEN: WeakKeyDictionary[Dataset, np.ndarray] = WeakKeyDictionary()
"""What a manifest says of a data set, for as long as the data set is used."""

_MEANS: WeakKeyDictionary[Dataset, dict[str, np.ndarray]] = WeakKeyDictionary()
"""Mean intensities that were computed; the experiments of a command share them."""


@dataclass(frozen=True)
class Mechanism:
    """What it depends on whether a training sample lacks a modality (Rubin, Biometrika 1976).

    Attributes:
        kind: 'mcar', missing completely at random: nothing in the data. 'mar', missing at random:
            something that is always observed. 'mnar', missing not at random: the value that is
            then missing.
        source: Of 'mar' the modality, or 'class' for the label; otherwise empty.
        strength: By how much; see `hide`.
    """

    kind: str
    source: str = ''
    strength: float = 1.0

    @classmethod
    def read(cls, spec: str, names: Sequence[str]) -> Mechanism:
        """Reads one of `MECHANISMS`, after which ':' and a strength may stand, as in 'mnar:2'.

        Raises:
            UserError: It is none of them, names no modality, or its strength is no number but 0.
        """
        kind, *words = spec.split(':')
        if kind not in KINDS or (kind == 'mcar' and words):
            near = nearest(kind, KINDS)
            raise UserError(f'unknown mechanism {spec!r}{near} (known: {", ".join(MECHANISMS)})')
        source = words.pop(0) if kind == 'mar' and words else ''
        if kind == 'mar' and source not in (*names, CLASS):
            raise unknown(f'modality in mechanism {spec!r}:', source, [*names, CLASS])
        given = ':'.join(words) if words else '1'
        try:
            strength = float(given)
        except ValueError:
            strength = 0.0
        if not strength or not math.isfinite(strength):
            raise UserError(
                f'mechanism {spec!r}: expected a finite strength other than 0, e.g. 2, '
                f'found {given!r}'
            )
        return cls(kind, source, strength)

    def __str__(self) -> str:
        """Returns the spec in the one spelling that protocols record."""
        tail = '' if self.strength == 1 else f'{self.strength:.10g}'
        return ':'.join(filter(None, (self.kind, self.source, tail)))


def spelled(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Returns the fields on training gaps in one spelling, which is part of the protocol's id.

    Args:
        given: The fields of the protocol that were typed, as text.
        names: The modalities.

    Raises:
        UserError: A field names something unknown, or does not fit the others.
    """
    found: dict[str, Any] = {}
    if 'mask' in given:
        raise UserError('mask: expected the option --mask FILE, found it in --cfg-options')
    if 'rates' in given:
        rates = '' if given['rates'] == 'complete' else given['rates']
        found['rates'] = spell_rates(parse_rates(rates or '0', names, f'rates={rates}'), names)
    if 'mechanism' in given:
        mechanism = Mechanism.read(given['mechanism'], names)
        if 'rates' not in given and mechanism.kind != 'mcar':
            raise UserError(f'mechanism={mechanism}: expected rates beside it, found none')
        # Without gaps there is nothing that could depend on anything.
        found['mechanism'] = str(mechanism) if found.get('rates') else 'mcar'
    return found


def check(task: Task, protocol: Protocol) -> None:
    """Checks what can be checked without data.

    Raises:
        UserError: The rates or the mechanism do not fit the task, or each other.
    """
    rates = _rates(task, protocol)
    mechanism = Mechanism.read(protocol.mechanism, task.names)
    if mechanism.source == CLASS and task.kind != 'classification':
        raise UserError(
            f'mechanism={protocol.mechanism}: expected a classification task, whose samples have '
            f'one class each, found {task.kind}'
        )
    if mechanism.source in task.names and rates[task.names.index(mechanism.source)]:
        raise UserError(
            f'mechanism={protocol.mechanism}: expected no missing rate of {mechanism.source}, on '
            f'which the gaps depend, found rates={protocol.rates}'
        )


def kept(data: Dataset, protocol: Protocol, seed: int) -> np.ndarray:
    """Returns what of the training split may be read, (N, M) bool.

    Args:
        data: The data set.
        protocol: Gives rates, mechanism and whether a manifest applies.
        seed: Seed of the experiment.

    Raises:
        UserError: A statistic on which the gaps depend is not known, or nothing is left.
    """
    found = GIVEN[data] if protocol.mask else _drawn(data, protocol, seed)
    if not found.any():
        raise UserError(
            f'{data.name}: expected some training sample with a modality under the training gaps '
            f'{protocol.gaps or "of the data"}, found none'
        )
    return found


def _drawn(data: Dataset, protocol: Protocol, seed: int) -> np.ndarray:
    """Returns what simulated training gaps leave, (N, M) bool."""
    train, task = split_of(data, 'train'), data.task
    rates = _rates(task, protocol)
    units = train.ids if train.groups is None else train.groups
    mechanism = Mechanism.read(protocol.mechanism, task.names)
    given = units, rates, derive(seed, 'gaps')
    if mechanism.kind == 'mcar' or not rates.any():
        return hide(train.available, *given)
    told = _statistics(data, mechanism, rates)
    return hide(train.available, *given, told, mechanism.strength)


def _rates(task: Task, protocol: Protocol) -> np.ndarray:
    return parse_rates(protocol.rates or '0', task.names, f'rates={protocol.rates}')


def _statistics(data: Dataset, mechanism: Mechanism, rates: np.ndarray) -> np.ndarray:
    """Returns what the loss of each modality depends on, (N, M), for those that lose samples.

    Raises:
        UserError: A sample lacks the modality on which the gaps depend, or it is not finite.
    """
    train, names = split_of(data, 'train'), data.task.names
    found = np.full(train.available.shape, np.nan)
    if mechanism.source == CLASS:
        found[:] = np.asarray(train.target[np.arange(len(train))], dtype=float)[:, None]
    elif mechanism.source:
        column = names.index(mechanism.source)
        if lacking := int((~train.available[:, column]).sum()):
            raise UserError(
                f'{data.name}: mechanism={mechanism}: expected {mechanism.source} in every '
                f'training sample, found {lacking} samples without it'
            )
        found[:] = _intensity(data, mechanism.source)[:, None]
    else:
        for k in np.flatnonzero(rates):
            found[:, k] = _intensity(data, names[k])
    return found


def _intensity(data: Dataset, name: str) -> np.ndarray:
    """Returns the mean of the values of each training sample in a modality, NaN where it lacks.

    Raises:
        UserError: A mean is not finite.
    """
    known = _MEANS.setdefault(data, {})
    if name not in known:
        train = split_of(data, 'train')
        found = np.full(len(train), np.nan)
        rows = np.flatnonzero(train.available[:, data.task.names.index(name)])
        for some in np.array_split(rows, range(CHUNK, len(rows), CHUNK)):
            values = np.asarray(train.inputs[name][some]).reshape(len(some), -1)
            found[some] = values.mean(1, dtype=np.float64)
        wrong = rows[~np.isfinite(found[rows])]
        if len(wrong):
            raise UserError(
                f'{data.name}: expected finite values of {name}, on which training gaps depend, '
                f'found {found[wrong[0]]} in sample {train.ids[wrong[0]]}'
            )
        known[name] = found
    return known[name]
