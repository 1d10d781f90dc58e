"""The section on training: losses, learning rate and validation by epoch.

They are read from the file of curves beside each record. Beside records of older versions there is
only a log, which tells the sum of the loss terms and the validation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records import curves
from benchmark.records.schema import Record, RecordError
from benchmark.records.units import unit_of
from benchmark.report.page.predictions import detailed
from benchmark.report.page.view import Section, View, figure, lacking, section, tidy

LOG = 'train.log'
MAX_BYTES = 32 * 2**20

MAX_POINTS = 20_000
"""Most points of all curves of a block; of more, some epochs are left out."""

_LOSS = re.compile(r'epoch (\d+): (?!validation)(?:.*, )?loss ([-\d.einf]+)$')
_VALIDATION = re.compile(r'epoch (\d+): validation \S+ (.*)$')

LOSS, MEAN, RATE = 'training loss', 'validation, mean over subsets', 'learning rate'
NORM, ALONE, VALIDATION = 'gradient norm of ', 'validation loss of ', 'validation of '
"""What the names of the curves of a single modality, or of a subset, begin with."""

Line = dict[int, float]
"""Epoch -> value."""


class Drawn(NamedTuple):
    """The curves of one run.

    Attributes:
        method: Number of the method.
        seed: The seed.
        lines: What is drawn -> its values by epoch.
    """

    method: int
    seed: int
    lines: dict[str, Line]


def from_log(log: Path, metric: str, subsets: Sequence[str]) -> dict[str, Line]:
    """Returns the curves that a log tells; of an epoch that was repeated, the last value.

    Args:
        log: The file; one that is missing or cannot be read holds nothing.
        metric: The metric of the validation.
        subsets: The subsets; where the log lacks one, there is no mean of that epoch.
    """
    found: dict[str, Line] = {LOSS: {}, MEAN: {}}
    try:
        if log.stat().st_size > MAX_BYTES:
            return found
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return found
    for line in lines:
        if told := _LOSS.search(line):
            found[LOSS][int(told[1])] = float(told[2])
        elif told := _VALIDATION.search(line):
            pairs = dict(word.rsplit(' ', 1) for word in told[2].split(', ') if ' ' in word)
            each = [pairs.get(f'{subset}/{metric}') for subset in subsets]
            values = [unit_of(metric).factor * float(value) for value in each if value]
            if len(values) == len(subsets):
                found[MEAN][int(told[1])] = float(np.mean(values))
    return found


def of_networks(
    networks: Mapping[str, curves.Curve], subsets: Sequence[str], metric: str
) -> dict[str, Line]:
    """Returns the curves of a run.

    Args:
        networks: The curves of its networks. Their losses, learning rates and gradient norms are
            averaged; a network that has no value for a modality is left out of its mean.
        subsets: The subsets; an epoch in which one was not measured has no mean of validation.
        metric: The metric of the validation.

    Returns:
        What is drawn -> its values by epoch, scores as they are printed.
    """
    trained: dict[str, list[Line]] = {}
    scores: dict[str, Line] = {}
    for curve in networks.values():
        trained.setdefault(RATE, []).append(_line(curve['epochs'], curve['lr']))
        for name, values in curve['losses'].items():
            title = LOSS if name == 'loss' else f'loss term {name}'
            trained.setdefault(title, []).append(_line(curve['epochs'], values))
        for name, values in curve.get('gradient_norms', {}).items():
            trained.setdefault(NORM + name, []).append(_line(curve['epochs'], values))
        for name, values in curve.get('modality_losses', {}).items():
            trained.setdefault(ALONE + name, []).append(_line(curve['validated'], values))
        for subset, values in curve['validation'].items():
            scores[subset] = _line(curve['validated'], values, unit_of(metric).factor)
    single = [title for title in trained if title.startswith((NORM, ALONE))]
    trained |= {title: [line for line in trained[title] if line] or [{}] for title in single}
    found = {title: _mean(lines) for title, lines in trained.items()}
    found[MEAN] = _mean([scores.get(subset, {}) for subset in subsets])
    shown = [subset for subset in detailed(subsets) if subset in scores]
    return {**found, **{f'{VALIDATION}{subset}': scores[subset] for subset in shown}}


def _line(epochs: Sequence[int], values: Sequence[float | None], scale: float = 1) -> Line:
    pairs = zip(epochs, values, strict=True)
    return {epoch: scale * value for epoch, value in pairs if value is not None}


def _mean(lines: Sequence[Line]) -> Line:
    """Returns the mean of several lines at the epochs that all of them have."""
    common = set.intersection(*(set(line) for line in lines))
    return {epoch: float(np.mean([line[epoch] for line in lines])) for epoch in sorted(common)}


def section_of(view: View, folder: Callable[[Record], Path]) -> Section:
    """Returns losses, learning rate and validation by epoch.

    Args:
        view: The block.
        folder: Returns the folder of a record's run.
    """
    drawn, damaged = _drawn(view, folder)
    kinds, step = _kinds(drawn), _step(drawn)
    rows = [
        [each.method, kinds.index(kind), each.seed, epoch, float(f'{value:.5g}')]
        for each in drawn
        for kind, line in each.lines.items()
        for epoch, value in _thinned(line, step)
    ]
    part = lacking(
        f'Neither a file {curves.CURVES} nor a file {LOG} with epochs lies beside the records, so '
        'there is no curve.'
    )
    if rows:
        part = figure(
            f'{view.id}-curves',
            'curves',
            'Lines: what is chosen by epoch, one line for each seed.',
            ['m', 'kind', 'seed', 'epoch', 'value'],
            rows,
            {'seed': 'seed', 'epoch': 'epoch', 'value': 'value'},
            selects=[{'field': 'kind', 'label': 'Show', 'options': tidy(kinds)}],
        )
    about = _about(view.runs.data['metric'], step, damaged, bool(view.runs.which))
    return section(f'{view.id}-training', 'Training', about, part)


def _drawn(view: View, folder: Callable[[Record], Path]) -> tuple[list[Drawn], int]:
    """Returns the curves of each run, and of how many runs the file of curves cannot be read."""
    runs, drawn, damaged = view.runs, list[Drawn](), 0
    metric = runs.data['metric']
    subsets = runs.subsets if runs.which else subset_ids(runs.data['modalities'])
    for m, members in enumerate(view.members):
        for record in (runs.records[i] for i in members):
            networks: dict[str, curves.Curve] = {}
            try:
                networks = curves.read(folder(record) / curves.CURVES, record)
            except RecordError:
                damaged += 1
            log = folder(record) / LOG
            lines = (
                of_networks(networks, subsets, metric)
                if networks
                else from_log(log, metric, subsets)
            )
            drawn.append(Drawn(m, record['seed'], lines))
    return drawn, damaged


def _about(metric: str, step: int, damaged: int, some: bool) -> str:
    told = [
        'Means of the loss terms over the steps of an epoch, the learning rate at its first step, '
        f'and the {metric} on the validation split {unit_of(metric).words} where it was measured. '
        'Losses of different methods have different terms and are not comparable.'
    ]
    if some:
        told.append('The mean over subsets gives every tested subset the same weight.')
    if step > 1:
        told.append(f'The curves have many epochs, of which one in {step} is shown.')
    if damaged:
        runs = 'runs' if damaged > 1 else 'run'
        told.append(f'Of {damaged} {runs} the file {curves.CURVES} is missing or damaged.')
    return ' '.join(told)


def _kinds(drawn: Iterable[Drawn]) -> list[str]:
    """Returns what can be chosen: what has some value, the most important first."""
    there = dict.fromkeys(kind for each in drawn for kind, line in each.lines.items() if line)
    first = [kind for kind in (LOSS, MEAN) if kind in there]
    terms = [k for k in there if k not in (LOSS, MEAN, RATE) and not k.startswith(VALIDATION)]
    validated = [kind for kind in there if kind.startswith(VALIDATION)]
    return [*first, *validated, *sorted(terms), *([RATE] if RATE in there else [])]


def _step(drawn: Iterable[Drawn]) -> int:
    """Returns k where every k-th epoch is shown, so that there are not too many points."""
    points = sum(len(line) for each in drawn for line in each.lines.values())
    return -(-points // MAX_POINTS) or 1


def _thinned(line: Line, step: int) -> list[tuple[int, float]]:
    """Returns one in `step` of a line's finite points in order; the last is always among them."""
    points = [(epoch, value) for epoch, value in sorted(line.items()) if np.isfinite(value)]
    return points[(len(points) - 1) % step :: step]
