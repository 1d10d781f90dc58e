"""The charts of lines, of rows with intervals, and of cost against score."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from benchmark.records.units import gained
from benchmark.report import escaping, statistics
from benchmark.report.figures.shapes import (
    Group,
    Lines,
    Mark,
    Picture,
    Point,
    Rows,
    Scatter,
    Series,
)
from benchmark.report.figures.source import Source, numbers_of, part_of, present, rows_of
from benchmark.report.page import costs, lattice, predictions, scores
from benchmark.report.page.curves import LOSS, MEAN
from benchmark.report.page.view import Part
from benchmark.report.writer import Lacking

STEPS = np.linspace(0, 0.3, 13)
"""Probabilities of a failure at which the expected score is drawn: above, methods are alike."""


def _series(source: Source, make: Callable[[int], Series | None]) -> list[Series]:
    """Returns the series of all methods that have one, best method first."""
    return [found for m in source.order if (found := make(m)) is not None]


def missing(source: Source) -> Iterator[Picture]:
    """Yields the score against the number of missing modalities, a dot for each seed."""
    view = source.view
    section = scores.missing(view)
    part = part_of(section, '-lines')
    rows = rows_of(part)

    def series(m: int) -> Series | None:
        own = [row for row in rows if row['m'] == m]
        if not own:
            return None
        # The mean stands in the row of each seed.
        each = {row['k']: row for row in own}.values()
        return Series(
            view.methods[m],
            [[(row['k'], row['mean']) for row in each]],
            [(row['k'], row['low'], row['high']) for row in each],
            [(row['k'], row['value']) for row in own],
        )

    shape = Lines(_series(source, series), 'modalities missing at test', view.score, whole=True)
    title = 'Score by number of missing modalities'
    yield Picture('missing', title, section['about'], shape, *numbers_of(part, view.methods))


def expected(source: Source) -> Iterator[Picture]:
    """Yields the expected score: for the failures that were asked for, or for equal ones."""
    view = source.view
    section = lattice.failing(view)
    part = part_of(section, '-expected')
    absent = view.runs.absent
    if absent is None:
        yield _equal_failures(source, part, section['about'])
        return
    names = view.runs.data['modalities']
    found = lattice.expected(part, absent[present(view)])
    order = [m for m in source.order if m in found and np.isfinite(found[m]).all()]
    if not order:
        raise Lacking('with every modality failing for certain there is nothing to expect')
    order.sort(key=lambda m: np.mean(found[m]) * (-1 if view.runs.higher else 1))
    told = ', '.join(f'{n} {100 * p:g} %' for n, p in zip(names, absent, strict=True) if p)
    marks, dots = [], []
    numbers: list[list[str | float | None]] = []
    for row, m in enumerate(order):
        mean, std = statistics.over_seeds(found[m])
        spread = 0.0 if math.isnan(std) else std
        marks.append(Mark(row, mean, mean - spread, mean + spread))
        dots += [(row, value) for value in found[m]]
        numbers.append([view.methods[m], mean, None if math.isnan(std) else std])
    label = f'expected {view.score} if modalities fail: {told or "none"}'
    shape = Rows([view.methods[m] for m in order], [Group('', marks, dots)], label)
    header = ['method', 'expected', 'std']
    yield Picture('expected', 'Expected score', section['about'], shape, header, numbers)


def _equal_failures(source: Source, part: Part, about: str) -> Picture:
    """Returns the expected score if all modalities fail with one probability."""
    view, numbers = source.view, []
    count = len(part['modalities'])
    found = [(p, lattice.expected(part, np.full(count, p))) for p in STEPS.tolist()]

    def series(m: int) -> Series | None:
        line, band = [], []
        for p, each in found:
            mean, std = statistics.over_seeds(each.get(m, [math.nan]))
            if math.isfinite(mean):
                spread = 0.0 if math.isnan(std) else std
                line.append((100 * p, mean))
                band.append((100 * p, mean - spread, mean + spread))
                numbers.append([view.methods[m], 100 * p, mean, None if math.isnan(std) else std])
        return Series(view.methods[m], [line], band) if line else None

    shape = Lines(
        _series(source, series),
        'probability that each modality fails (%)',
        f'expected {view.score}',
    )
    header = ['method', 'failure %', 'expected', 'std']
    return Picture('expected', 'Expected score', about, shape, header, numbers)


def shapley(source: Source) -> Iterator[Picture]:
    """Yields what each modality is worth."""
    view = source.view
    section = lattice.shapley(view)
    part = part_of(section, '-shapley')
    rows = rows_of(part)
    order = [m for m in source.order if any(row['m'] == m for row in rows)]
    groups = [
        Group(
            name,
            [
                Mark(order.index(row['m']), row['value'], row['low'], row['high'])
                for row in rows
                if row['modality'] == name
            ],
        )
        for name in dict.fromkeys(row['modality'] for row in rows)
    ]
    label = f'Shapley value ({gained(view.runs.metric)})'
    shape = Rows([view.methods[m] for m in order], groups, label, zero=True)
    title = 'What each modality is worth'
    yield Picture('shapley', title, section['about'], shape, *numbers_of(part, view.methods))


def ranks(source: Source) -> Iterator[Picture]:
    """Yields the interval of each method's rank."""
    view = source.view
    section = scores.ranks(view)
    part = part_of(section, '-rank')
    rows = sorted(rows_of(part), key=lambda row: row['order'])
    marks = [Mark(k, math.nan, row['low'], row['high']) for k, row in enumerate(rows)]
    names = [view.methods[row['m']] for row in rows]
    left = len(view.methods) - len(names)
    shape = Rows(names, [Group('', marks)], 'rank (95 % interval)', whole=True)
    yield Picture(
        'ranks',
        'Ranks',
        section['about'],
        shape,
        *numbers_of(part, view.methods),
        f'{left} of {len(view.methods)} methods have no rank' if left else '',
    )


def cost(source: Source) -> Iterator[Picture]:
    """Yields cost against score: the sizes, and the FLOPs on the subsets that get a figure."""
    view = source.view
    section = costs.section_of(view)
    part = part_of(section, '-pareto')
    options, rows = part['selects'][0]['options'], rows_of(part)
    subsets = [predictions.detailed(view.runs.subsets)[k] for k in source.detailed()]
    wanted = [*costs.SIZES.values(), *(f'FLOPs on {subset}' for subset in subsets)]
    kinds = [k for k, option in enumerate(options) if option.rpartition(' / ')[0] in wanted]
    shown = {row['m'] for row in rows if row['kind'] in kinds}
    order = [m for m in source.order if m in shown]
    panels = []
    for kind in kinds:
        title, _, score = options[kind].rpartition(' / ')
        what = view.score if score == 'mean score' else f'{view.score} there'
        points = [
            Point(order.index(row['m']) + 1, row['cost'], row['score'], row['front'] > 0)
            for row in rows
            if row['kind'] == kind
        ]
        panels.append((title, what, points))
    left = len(options) - len(kinds)
    yield Picture(
        'cost',
        'Cost and score',
        section['about'],
        Scatter(panels, [view.methods[m] for m in order], view.runs.higher, view.unit.digits),
        *numbers_of(part, view.methods),
        f'FLOPs on {left} subsets are not shown; --subsets names others' if left else '',
    )


def risk(source: Source) -> Iterator[Picture]:
    """Yields risk against coverage."""
    arguments = '-risk', ('coverage', 'coverage (%)'), ('risk', 'risk (%)'), 'Risk and coverage'
    yield from _curves(source, 'risk', *arguments)


def reliability(source: Source) -> Iterator[Picture]:
    """Yields the share of right answers by stated confidence."""
    axes = ('confidence', 'stated confidence (%)'), ('accuracy', 'right answers (%)')
    yield from _curves(source, 'reliability', '-reliability', *axes, 'Reliability', diagonal=True)


def _curves(
    source: Source,
    name: str,
    end: str,
    x: tuple[str, str],
    y: tuple[str, str],
    title: str,
    **more: Any,
) -> Iterator[Picture]:
    """Yields a chart of lines for each subset that gets a figure.

    Args:
        source: The block.
        name: The name of the figures; further ones have numbers.
        end: What the id of the part ends in.
        x: Field and title of the x-axis.
        y: Field and title of the y-axis.
        title: What is shown.
        more: Attributes of `Lines`.
    """
    view = source.view
    section = predictions.calibrated(view, source.seen)
    part = part_of(section, end)
    subsets, chosen = part['selects'][0]['options'], source.detailed()
    for k in chosen:
        rows = [row for row in rows_of(part) if row['s'] == k]
        if not rows:
            continue
        here = {**part, 'rows': [row for row in part['rows'] if row[1] == k]}
        shape = Lines(
            [_line(view.methods[m], rows, m, x[0], y[0]) for m in _order(source, rows)],
            f'{x[1]} on {subsets[k]}',
            y[1],
            **more,
        )
        full = name if len(chosen) == 1 else f'{name}-{k + 1}'
        told = f'{title} on {subsets[k]}'
        numbers = numbers_of(here, view.methods)
        yield Picture(full, told, section['about'], shape, *numbers, source.told_detailed())


def _order(source: Source, rows: Iterable[dict[str, Any]]) -> list[int]:
    there = {row['m'] for row in rows}
    return [m for m in source.order if m in there]


def _line(name: str, rows: Iterable[dict[str, Any]], m: int, x: str, y: str) -> Series:
    return Series(name, [[(row[x], row[y]) for row in rows if row['m'] == m]])


def curves(source: Source) -> Iterator[Picture]:
    """Yields the loss, the mean of validation, and that of chosen subsets, a line for each seed."""
    view = source.view
    part = part_of(source.curves, '-curves')
    options = part['selects'][0]['options']
    wanted = {LOSS: 'loss', MEAN: 'validation'}
    chosen = enumerate(view.runs.subsets)
    wanted |= {
        f'validation of {escaping.terminal(subset)}': f'validation-{k + 1}'
        for k, subset in chosen
        if subset in source.asked.subsets
    }
    left = len([option for option in options if option not in wanted])
    told = 'terms of the loss, learning rate or single subsets'
    note = f'{left} curves are not shown ({told}); the page has them' if left else ''
    for kind, option in enumerate(options):
        rows = [row for row in rows_of(part) if row['kind'] == kind]
        if option not in wanted or not rows:
            continue
        series = []
        for m in _order(source, rows):
            own = [row for row in rows if row['m'] == m]
            seeds = dict.fromkeys(row['seed'] for row in own)
            lines = [[(r['epoch'], r['value']) for r in own if r['seed'] == s] for s in seeds]
            series.append(Series(view.methods[m], lines))
        here = {**part, 'rows': [row for row in part['rows'] if row[1] == kind]}
        # Losses of different methods are not comparable.
        shape = Lines(series, 'epoch', option, shared=option != LOSS)
        name, about = f'curves-{wanted[option]}', source.curves['about']
        numbers = numbers_of(here, view.methods)
        yield Picture(name, f'Training: {option}', about, shape, *numbers, note)
        note = ''
