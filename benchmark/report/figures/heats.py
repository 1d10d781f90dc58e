"""The charts whose numbers stand in a grid: method x subset, pairs of modalities, classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from benchmark.records.units import gained
from benchmark.report.figures.shapes import Colouring, Column, Heat, Matrices, Picture, Value
from benchmark.report.figures.source import Source, part_of, present
from benchmark.report.page import lattice, predictions, scores
from benchmark.report.page.view import Part, Section
from benchmark.report.writer import Lacking

DARK = 'the darker, the better'
SIGNED = 'better is blue, worse is orange'

MEASURES = ('error', 'brier', 'risk', 'confidence')
"""What the names of the figures of `predictions.MEASURES` end in."""


def heat_of(
    source: Source,
    name: str,
    title: str,
    about: str,
    values: Sequence[Sequence[Value]],
    label: str,
    colouring: Colouring,
    columns: dict[int, Column] | None = None,
    methods: Sequence[int] | None = None,
    **more: Any,
) -> Picture:
    """Returns the heatmap of one row of `values` per method, best method first.

    Args:
        source: The block.
        name: As of `Picture`.
        title: As of `Picture`.
        about: As of `Picture`.
        values: For each of `methods` a list of numbers.
        label: As of `Heat`.
        colouring: As of `Heat`.
        columns: Place in a row of `values` -> column, by default those of the block.
        methods: The methods that `values` has, by default all.
        more: Other attributes of `Heat`.
    """
    shown = source.columns if columns is None else columns
    rows = dict(zip(range(len(values)) if methods is None else methods, values, strict=True))
    order = [m for m in source.order if m in rows]
    names = [source.view.methods[m] for m in order]
    cells = [[rows[m][k] for k in shown] for m in order]
    return Picture(
        name,
        title,
        about,
        Heat(names, list(shown.values()), cells, source.modalities, label, colouring, **more),
        ['method', *(column.title for column in shown.values())],
        [[method, *row] for method, row in zip(names, cells, strict=True)],
    )


def _layers(source: Source) -> Part:
    return part_of(scores.heatmap(source.view), '-heat')


def score(source: Source) -> Iterator[Picture]:
    """Yields the scores of each method on each subset."""
    view, part = source.view, _layers(source)
    title, about = 'Scores by method and subset', f'Mean over seeds. {view.better}'
    dark: Colouring = part['colours'][0]
    shown = part['layers']['0'], f'{view.score}; {DARK}', dark
    yield heat_of(source, 'scores', title, about, *shown, digits=view.unit.digits)


def gap(source: Source) -> Iterator[Picture]:
    """Yields the gap closed between chance and ceiling."""
    view, part = source.view, _layers(source)
    if '1' not in part['layers']:
        raise Lacking(scores.no_gap(view))
    about = 'The gap closed is (score - chance) / (ceiling - chance).'
    # The worst column has none, and a column without any number would be empty.
    rows = part['layers']['1']
    shown = {k: c for k, c in source.columns.items() if any(row[k] is not None for row in rows)}
    label = f'gap closed (%); {DARK}'
    yield heat_of(
        source, 'gap', 'Gap closed by method and subset', about, rows, label, 'high', shown
    )


def difference(source: Source) -> Iterator[Picture]:
    """Yields the difference of each other method to the baseline."""
    view, part = source.view, _layers(source)
    rows, base = part['layers']['0'], part['layers']['0'][source.baseline]
    others = [m for m in range(len(rows)) if m != source.baseline]
    if not others:
        raise Lacking('there is no method beside the baseline')
    known = [[value is not None for value in row] for row in rows]

    def alike(m: int, columns: Sequence[int]) -> bool:
        return all(known[m][k] == known[source.baseline][k] for k in columns)

    less = [
        [
            None if v is None or b is None or not alike(m, over) else v - b
            for v, b, over in zip(rows[m], base, part['over'], strict=True)
        ]
        for m in others
    ]
    against, points = view.methods[source.baseline], view.unit.points
    yield heat_of(
        source,
        'difference',
        f'Differences to {against}',
        'The score of a method less that of the baseline, means over seeds.',
        less,
        f'{view.runs.metric} less that of {against}{points and f" ({points})"}; {SIGNED}',
        'signed' if part['sign'] > 0 else 'against',
        methods=others,
        digits=view.unit.digits,
    )


def interactions(source: Source) -> Iterator[Picture]:
    """Yields the interaction of each pair of modalities."""
    view = source.view
    section = lattice.shapley(view)
    part = part_of(section, '-pairs')
    pairs = itertools.combinations(present(view), 2)
    columns = {
        k: Column(title, frozenset(pair))
        for k, (title, pair) in enumerate(zip(part['cols'], pairs, strict=True))
    }
    methods = [view.methods.index(name) for name in part['rows']]
    label = f'interaction ({gained(view.runs.metric)}); synergy is blue, redundancy is orange'
    arguments = 'interactions', 'Interactions of two modalities', section['about']
    values = part['layers']['']
    yield heat_of(source, *arguments, values, label, 'signed', columns, methods)


def calibration(source: Source) -> Iterator[Picture]:
    """Yields calibration error, Brier score, area under the risk curve, and overconfidence."""
    view = source.view
    section = predictions.calibrated(view, source.seen)
    part = part_of(section, '-calibrated')
    subsets = source.asked.subsets or view.runs.subsets
    columns = {
        k: source.column(subset) for k, subset in enumerate(view.runs.subsets) if subset in subsets
    }
    for k, (name, title) in enumerate(zip(MEASURES, predictions.MEASURES, strict=True)):
        values, colouring = part['layers'][str(k)], part['colours'][k]
        if not any(value is not None for row in values for value in row):
            continue
        told = 'overconfident is blue, underconfident is orange' if colouring == 'signed' else DARK
        told = f'{title}; {told}'
        capital = title[0].upper() + title[1:]
        about = section['about']
        full = f'calibration-{name}'
        yield heat_of(source, full, capital, about, values, told, colouring, columns)


def classes(source: Source) -> Iterator[Picture]:
    """Yields for the best method, or each that was asked for, what becomes of each class."""
    section = predictions.confused(source.view, source.seen)
    if source.view.runs.data['kind'] == 'segmentation':
        yield from _by_class(source, section, part_of(section, '-each'))
    else:
        yield from _confusion(source, section, part_of(section, '-confusion'))


def _confusion(source: Source, section: Section, part: Part) -> Iterator[Picture]:
    """Yields a matrix per subset: which class was taken for which."""
    methods, subsets = part['selects'][0]['options'], part['selects'][1]['options']
    shown = source.detailed() if source.asked.subsets else range(len(subsets))
    for m in source.order if source.asked.only else source.order[:1]:
        panels = [
            (subsets[k], part['layers'][f'{m}/{k}']) for k in shown if f'{m}/{k}' in part['layers']
        ]
        if not panels:
            continue
        yield Picture(
            'classes' if not source.asked.only else f'classes-{source.order.index(m) + 1}',
            f'Confusions of {methods[m]}',
            f'{part["text"]} {section["about"]}',
            Matrices(part['rows'], panels, f'percent of the true class; {methods[m]}'),
            ['method', 'subset', 'true class', *part['cols']],
            [
                [methods[m], subset, name, *row]
                for subset, rows in panels
                for name, row in zip(part['rows'], rows, strict=True)
            ],
            _told_best(source, methods[m], len(subsets)),
        )


def _by_class(source: Source, section: Section, part: Part) -> Iterator[Picture]:
    """Yields IoU of each class or Dice of each region, on each subset."""
    view = source.view
    names, subsets = part['selects'][0]['options'], source.asked.subsets or view.runs.subsets
    shown = [k for k, subset in enumerate(view.runs.subsets) if subset in subsets]
    kind = part['text'].split()[0]
    for m in source.order if source.asked.only else source.order[:1]:
        cells = [[part['layers'][str(c)][m][k] for k in shown] for c in range(len(names))]
        columns = [source.column(view.runs.subsets[k]) for k in shown]
        yield Picture(
            'classes' if not source.asked.only else f'classes-{source.order.index(m) + 1}',
            f'{kind} of each class, {view.methods[m]}',
            section['about'],
            Heat(
                names,
                columns,
                cells,
                source.modalities,
                f'{kind} of {view.methods[m]} (%); {DARK}',
                'high',
            ),
            ['class', *(column.title for column in columns)],
            [[name, *row] for name, row in zip(names, cells, strict=True)],
            _told_best(source, view.methods[m], 0),
        )


def _told_best(source: Source, method: str, subsets: int) -> str:
    """Says which methods and subsets are not shown."""
    told = []
    count = len(source.view.methods)
    if not source.asked.only and count > 1:
        told.append(
            f'of {count} methods only {method}, the best one, is shown; --only names others'
        )
    total = len(source.view.runs.subsets)
    if subsets and subsets < total and not source.asked.subsets:
        told.append(f'of {total} subsets {subsets} are shown: the smallest and the largest ones')
    return '; '.join(told)
