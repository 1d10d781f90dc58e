"""The sections on scores: table, heatmap, number of missing modalities, and ranks."""

from __future__ import annotations

import math
from typing import Any

from benchmark import tested
from benchmark.records.units import PERCENT
from benchmark.report import captions, escaping, statistics
from benchmark.report.page.view import (
    Section,
    View,
    figure,
    grid,
    lacking,
    number,
    numbers,
    section,
    tidy,
)
from benchmark.report.rows import Cell, Row
from benchmark.report.standings import MAIN

WIDE = 31
"""Most subsets that the table shows one by one; the heatmap has all."""


def table(view: View) -> dict[str, Any]:
    """Returns the table of scores: the same cells as in the other formats, with intervals."""
    block, runs = view.block, view.runs
    columns = block.columns
    if len(runs.subsets) > WIDE:
        columns = {key: title for key, title in columns.items() if key not in runs.subsets}
    extra = list(dict.fromkeys(title for row in block.rows for title in row.extra))
    names = dict(zip(runs.groups, view.methods, strict=True))
    partial = dict(zip(runs.groups, view.partial, strict=True))
    rows: list[dict[str, Any]] = [
        {
            'name': names.get(row.label, '') if row.kind == 'method' else tidy([row.label])[0],
            'sign': row.sign + (partial.get(row.label, '') if row.kind == 'method' else ''),
            'kind': row.kind,
            'cells': [_cell(view, row, key) for key in columns],
            'extra': [row.extra.get(title, '') for title in extra],
        }
        for row in block.rows
    ]
    return {
        'id': f'{view.id}-table',
        'words': view.unit.words,
        'columns': [escaping.terminal(title) for title in columns.values()],
        'extra': extra,
        'rows': [row for row in rows if row['kind'] == 'method'],
        'others': [row for row in rows if row['kind'] != 'method'],
        'intervals': any(cell['interval'] for row in rows for cell in row['cells']),
        'hidden': len(block.columns) - len(columns),
    }


def _cell(view: View, row: Row, column: str) -> dict[str, Any]:
    cell, runs, unit = row.cells.get(column, Cell(math.nan)), view.runs, view.unit
    low, high = math.nan, math.nan
    if row.kind == 'method' and runs.main:
        low, high = runs.standings.interval(row.label, column)
    known = not math.isnan(cell.mean)
    most = 1.0 if unit is PERCENT else math.inf
    bounds = [unit.text(min(max(bound, 0.0), most)) for bound in (low, high)]
    return {
        'text': unit.printed(cell.mean) if known else cell.text,
        'value': f'{cell.mean:.6f}' if known else '',
        'spread': unit.printed(cell.std),
        'interval': '' if math.isnan(low) else f'{bounds[0]} to {bounds[1]}',
        'mark': cell.mark,
    }


def heatmap(view: View) -> Section:
    """Returns method x subset: the score, the gap closed, and the difference to a baseline."""
    runs = view.runs
    places = {key: k for k, key in enumerate(runs.columns)}
    colour = 'high' if runs.higher else 'low'
    columns = [view.runs.titles.get(key, key.replace('_', ' ')) for key in runs.columns]
    layers, options, colours = {'0': numbers(view.means)}, [view.score], [colour]
    closed = _gap_closed(view)
    if closed is not None:
        layers['1'] = closed
        options.append('gap closed (%)')
        colours.append('high')
    about = (
        f'{view.better} The darker a cell, the better. A difference is the score of the method '
        'less that of the baseline; better is blue, worse is orange. The 5 % of the cells with the '
        'highest and the 5 % with the lowest numbers have the colours of the ends of the scale.'
    )
    about += f' {captions.numbers(runs)}'.rstrip()
    if closed is None:
        about += f' The gap closed is not shown: {no_gap(view)}.'
    part = grid(
        f'{view.id}-heat',
        'Mean over seeds of each method on each subset.',
        'method',
        view.methods,
        [escaping.terminal(title) for title in columns],
        layers,
        [{'label': 'Show', 'options': options}],
        colours=colours,
        methods=True,
        signs=[
            f'{"†" if view.collapsed(members) else ""}{partial}'
            for members, partial in zip(view.members, view.partial, strict=True)
        ],
        baseline=view.order[0],
        over=[[places[subset] for subset in over] for over in runs.columns.values()],
        sign=1 if runs.higher else -1,
        digits=view.unit.digits,
    )
    return section(f'{view.id}-map', 'Methods and subsets', about, part, shown=True)


def no_gap(view: View) -> str:
    """Says why the gap closed is not known."""
    if not view.runs.main:
        return f'it is that of {view.runs.data["metric"]}, the metric of the data set'
    known = {'ceiling': view.runs.data['ceiling'], 'chance': view.runs.data['chance']}
    absent = [name for name, value in known.items() if value is None or value == {}]
    if len(absent) == len(known):
        return 'the data set states neither its ceiling nor its chance'
    return f'the data set does not state its {absent[0]}'


def _gap_closed(view: View) -> list[list[float | None]] | None:
    """Returns for each method and column (score - chance) / (ceiling - chance) in percent.

    In a summary it is the mean over its subsets, as in the column 'gap closed' of the tables; the
    worst column has none.
    """
    chance, ceiling = view.runs.data['chance'], view.runs.data['ceiling']
    if chance is None or not ceiling or not view.runs.main:
        return None
    places = {subset: k for k, subset in enumerate(view.runs.subsets)}
    count, factor = len(view.runs.data['modalities']), view.unit.factor
    found = []
    for means in view.means:
        each = {
            subset: 100 * statistics.gap_closed(means[k] / factor, ceiling[subset], chance)
            for subset, k in places.items()
            if subset in ceiling
        }
        row = []
        for key, subsets in view.runs.columns.items():
            values = {s: each[s] for s in subsets if not math.isnan(each.get(s, math.nan))}
            shown = values and key != 'worst'
            row.append(number(tested.mean(values, count, view.runs.which)) if shown else None)
        found.append(row)
    return found


def missing(view: View) -> Section:
    """Returns the score against the number of missing modalities, a dot for each seed."""
    runs, rows, left = view.runs, [], set()
    places = {key: k for k, key in enumerate(runs.columns)}
    for k in range(len(runs.data['modalities'])):
        column = places[f'missing_{k}']
        tested = view.tested[:, [places[subset] for subset in runs.columns[f'missing_{k}']]]
        for m, members in enumerate(view.members):
            if (tested[m] != tested[view.order[0]]).any():
                left.add(m)
                continue
            values = view.unit.factor * runs.values[members, column]
            known = values[[not math.isnan(v) for v in values]]
            if not len(known):
                continue
            mean, std = statistics.over_seeds(known.tolist())
            spread = 0.0 if math.isnan(std) else std
            told = numbers([mean, std, mean - spread, mean + spread])
            seeds = [runs.records[i]['seed'] for i in members]
            rows += [
                [m, k, seed, number(value), *told]
                for seed, value in zip(seeds, values, strict=True)
                if not math.isnan(value)
            ]
    about = (
        f'{view.better} A line is the mean over the subsets that lack so many modalities and over '
        'seeds, a dot is one seed, and a band is one standard deviation over seeds to either side.'
    )
    if left:
        names = ', '.join(view.methods[m] for m in sorted(left))
        about += f' Left out where their mean would be over other subsets: {names}.'
    part = figure(
        f'{view.id}-lines',
        'missing',
        f'Lines: {runs.metric} of the chosen methods by the number of missing modalities.',
        ['m', 'k', 'seed', 'value', 'mean', 'std', 'low', 'high'],
        rows,
        {'k': 'missing', 'seed': 'seed', 'value': 'score', 'mean': 'mean', 'std': '±'},
        {'@y': view.score},
        digits=view.unit.digits,
    )
    title = 'Number of missing modalities'
    return section(f'{view.id}-missing', title, about, part, shown=True)


def ranks(view: View) -> Section:
    """Returns the interval of each method's rank in the mean over subsets."""
    runs = view.runs
    found = runs.standings.ranks if runs.main else {}
    names = list(runs.groups)
    about = (
        'The 95 % interval of the rank in the mean over subsets; 1 is best. Of nine methods, one '
        'with the interval 2 to 5 is proven to be worse than one and better than four others. '
        'Wide intervals mean that the data cannot tell the methods apart.'
    )
    part = lacking(f'There are no rank intervals: {_no_ranks(view)}.')
    if found:
        rows = [[names.index(label), *bounds, k] for k, (label, bounds) in enumerate(found.items())]
        part = figure(
            f'{view.id}-rank',
            'ranks',
            f'Bars: rank of {len(rows)} methods, best mean first. '
            f'{view.methods[rows[0][0]]} has rank {rows[0][1]} to {rows[0][2]}.',
            ['m', 'low', 'high', 'order'],
            rows,
            {'low': 'best rank', 'high': 'worst rank'},
            all=True,
        )
    return section(f'{view.id}-ranks', 'Ranks', about, part)


def _no_ranks(view: View) -> str:
    if not view.runs.main:
        return "differences are tested in the data set's own metric only"
    lack = view.runs.standings.lacking
    return lack or f'the column {MAIN} has too few independent test samples'
