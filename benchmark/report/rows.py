"""The rows of a table, made from runs and from what papers print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from benchmark.options import spell
from benchmark.records.distances import HD95
from benchmark.records.schema import Record, is_external, scores_in, test_scores
from benchmark.records.units import Unit, named, unit_of
from benchmark.report import cost_table, coverage, gaps, statistics
from benchmark.report.runs import EXPECTED, Runs
from benchmark.report.standings import Mark
from benchmark.tested import is_sample, mean

BESIDE = {
    'ACER': ('APCER', 'BPCER'),
    'APCER': ('BPCER',),
    'BPCER': ('APCER',),
    'accuracy': ('UAR',),
    'UAR': ('accuracy',),
}
"""Metric -> those without which it misleads; a row tells their means over subsets and seeds."""

SOURCES = {'a search': 'searched', 'the released schedule': 'schedule'}
"""How a source in `results/settings.json` begins -> the word of the column 'options'.

Of a row with values of both kinds it is the first."""

UNEVEN = 1.5
"""From how many times its equal share on the most frequent class makes accuracy mislead."""


@dataclass(frozen=True)
class Cell:
    """A mean over seeds and its standard deviation, as printed; NaN is shown as nothing.

    A cell of another kind has a text, which is shown in the place of the mean.
    """

    mean: float
    std: float = math.nan
    mark: Mark = ''
    text: str = ''


@dataclass(frozen=True)
class Row:
    """One row of a block.

    Attributes:
        label: The method spec, or the name of a reference.
        kind: 'method', 'reference' (ceiling, chance, majority), 'published', or 'number' (of test
            samples, where columns have different ones).
        cells: Column id -> cell, of the columns that the row has.
        sign: Footnote sign after the label.
        lead: What stands before the label: the training gaps, where a block has several.
        key: Key of the runs that the row stems from.
        seeds: Number of seeds.
        extra: Title -> text of the further columns in the Markdown file.
        facts: Name -> plain number or text of the further columns in the CSV file.
    """

    label: str
    kind: Literal['method', 'reference', 'published', 'number']
    cells: dict[str, Cell]
    sign: str = ''
    lead: str = ''
    key: str = ''
    seeds: int = 0
    extra: dict[str, str] = field(default_factory=dict)
    facts: dict[str, float | str] = field(default_factory=dict)


def number_row(unit: str, numbers: Mapping[str, int]) -> Row:
    """Returns the row of the numbers of test samples or clusters by subset."""
    cells = {subset: Cell(math.nan, text=f'{n:,}') for subset, n in numbers.items()}
    return Row(f'test {unit}', 'number', cells)


def method_row(label: str, runs: Runs, lead: str) -> Row:
    """Returns the row of one method over its seeds."""
    members = runs.groups[label]
    chosen, marks = [runs.records[i] for i in members], runs.standings.marks.get(label, {})
    cells, unit = {}, runs.printed
    for key, values in zip(runs.columns, runs.values[members].T, strict=True):
        tested = values[~np.isnan(values)]
        centre, std = statistics.over_seeds(tested) if len(tested) else (math.nan, math.nan)
        cells[key] = Cell(unit.factor * centre, unit.factor * std, marks.get(key, ''))
    closed = _gap_closed(runs, chosen) if runs.main else ''
    costs = cost_table.facts(chosen) if runs.main and not lead else {}
    ranks, beside = runs.standings.ranks, _beside(runs, chosen)
    reach = _reach(runs, members)
    by_subsets = coverage.reach(runs, members) if is_sample(runs.which) else None
    places = dict(zip(('rank_low', 'rank_high'), ranks.get(label, ()), strict=False))
    return Row(
        label=label,
        kind='method',
        cells=cells,
        sign='†' if any(record['collapsed'] for record in chosen) else '',
        lead=lead,
        key=runs.protocol_id,
        seeds=len(chosen),
        extra={
            **({'gap closed %': closed} if closed else {}),
            **{named(name): unit_of(name).printed(value) for name, value in beside.items()},
            **({f'{EXPECTED} 95 %': _span(unit, *reach)} if reach else {}),
            **({'mean ± by subsets': unit.text(by_subsets)} if by_subsets is not None else {}),
            **({'rank 95 %': _rank_text(ranks, label)} if ranks else {}),
            'seeds': str(len(chosen)),
            'options': _options(chosen[0]),
        },
        facts={
            **{f'mean_{k}': v for k, v in beside.items()},
            **_facts(runs, is_external(chosen[0])),
            **dict(zip((f'{EXPECTED}_low', f'{EXPECTED}_high'), reach, strict=False)),
            **places,
            **_worst(runs, members),
            **coverage.facts(runs, members),
            **(gaps.facts(runs) if lead else costs),
        },
    )


def _reach(runs: Runs, members: Sequence[int]) -> tuple[float, ...]:
    """Returns the ends, as printed, of the 95 % interval of the expected score over the seeds."""
    if runs.absent is None:
        return ()
    values = runs.values[members, list(runs.columns).index(EXPECTED)]
    low, high = statistics.interval(values[~np.isnan(values)].tolist())
    return runs.printed.factor * low, runs.printed.factor * high


def _span(unit: Unit, low: float, high: float) -> str:
    return '' if math.isnan(low) else f'{unit.printed(low)} to {unit.printed(high)}'


def _worst(runs: Runs, members: Sequence[int]) -> dict[str, float | str]:
    """Returns what the CSV file says of the column 'worst': the worst subset of each seed."""
    values = runs.values[members, : len(runs.subsets)]
    if 'worst' not in runs.titles or np.isnan(values).all(1).any():
        return {}
    found = np.nanargmin(values if runs.higher else -values, axis=1)
    told = ', '.join(runs.subsets[k] for k in found)
    return {'worst_is': f'of each seed the score of its worst subset ({told})'}


def paired(runs: Runs) -> list[str]:
    """Returns the titles of what every format must show beside the metric.

    These are the other rate of errors of one kind, and UAR beside the accuracy of uneven classes.
    """
    classes, shares = len(runs.data['classes']), runs.samples.majority.values()
    even = runs.metric == 'accuracy' and max(shares, default=0.0) < UNEVEN / classes
    told = () if runs.metric == 'ACER' or even else _companions(runs.metric)
    return [named(name) for name in told]


def _companions(metric: str) -> tuple[str, ...]:
    """Returns the metrics that must be read together with one; Dice and HD95, of one region too."""
    name, *region = metric.split('_', 1)
    if name not in ('Dice', HD95):
        return BESIDE.get(metric, ())
    return ('_'.join(['Dice' if name == HD95 else HD95, *region]),)


def _beside(runs: Runs, chosen: Sequence[Record]) -> dict[str, float]:
    """Returns the means of the metrics that must be read together with the shown one."""
    every = {name: [scores_in(r, name) for r in chosen] for name in _companions(runs.metric)}
    return {n: unit_of(n).factor * _mean(runs, each) for n, each in every.items() if any(each)}


def _mean(runs: Runs, each: Sequence[Mapping[str, float]]) -> float:
    """Returns the mean over subsets and seeds, NaN if nothing is known.

    Args:
        runs: The runs.
        each: Subset id -> number, of each of several runs.
    """
    if is_sample(runs.which):
        count = len(runs.data['modalities'])
        found = [mean(numbers, count, runs.which) for numbers in each if numbers]
    else:
        found = [number for numbers in each for number in numbers.values()]
    return float(np.mean(found)) if found else math.nan


def _facts(runs: Runs, external: bool) -> dict[str, float | str]:
    """Returns what the CSV file tells of the data: options, encoder, sizes, units.

    The encoder of other code is not known.
    """
    options = ' '.join(f'{key}={spell(value)}' for key, value in runs.data['options'].items())
    numbers = runs.units
    return {
        'dataset_options': options,
        **({} if external or 'encoder' not in runs.data else {'encoder': runs.data['encoder']}),
        'unit': runs.unit,
        **{f'n_{split}': count for split, count in runs.sizes.items()},
        **({f'n_{s}': n for s, n in numbers.items()} if len(set(numbers.values())) > 1 else {}),
    }


def _rank_text(ranks: Mapping[str, tuple[int, int]], label: str) -> str:
    """Returns the interval of a row's rank in the mean, '' for a row that is not ranked."""
    low, high = ranks.get(label, (0, 0))
    return f'{low} to {high}' if low < high else str(low or '')


def _options(record: Record) -> str:
    """Says where a row's options come from, or that a search could choose none.

    Of values in `results/settings.json`, the notes name the source.
    """
    method = record['method']
    if method['source'] == 'settings.json':
        told = [note.partition(' from ')[2] for note in method.get('notes', [])]
        found = (word for start, word in SOURCES.items() if any(t.startswith(start) for t in told))
        return next(found, 'settings.json')
    fixed = method['source'] == 'default' and method.get('tunable') == []
    return 'no search space' if fixed else method['source']


def _gap_closed(runs: Runs, chosen: Sequence[Record]) -> str:
    """Returns (score - chance) / (ceiling - chance) in percent, the mean over subsets and seeds."""
    chance, ceiling = chosen[0]['dataset']['chance'], chosen[0]['dataset']['ceiling']
    if chance is None:
        return ''
    every = [
        {
            subset: statistics.gap_closed(value, ceiling[subset], chance)
            for subset, value in test_scores(record).items()
            if subset in ceiling
        }
        for record in chosen
    ]
    closed = [{s: gap for s, gap in each.items() if not math.isnan(gap)} for each in every]
    return f'{100 * _mean(runs, closed):.1f}' if any(every) else ''


def references(runs: Runs) -> list[Row]:
    """Returns the rows of the ideal observer and of chance, where they are known."""
    ceiling, chance, rows = runs.data['ceiling'], runs.data['chance'], []
    factor = runs.printed.factor
    if ceiling:
        best = {key: Cell(factor * value) for key, value in runs.summarised(ceiling).items()}
        rows.append(Row('ceiling (ideal observer)', 'reference', best))
    if chance is not None:
        guessed = dict.fromkeys(runs.columns, Cell(factor * chance))
        rows.append(Row('chance', 'reference', guessed))
    if runs.metric == 'accuracy' and runs.samples.majority:
        most = {key: Cell(100 * v) for key, v in runs.summarised(runs.samples.majority).items()}
        rows.append(Row('majority (most frequent class)', 'reference', most))
    return rows


def published_row(row: Mapping[str, Any], runs: Runs) -> Row:
    """Returns a row of a paper, which may name the modalities of a subset in another order."""
    scores = {frozenset(subset.split('+')): value for subset, value in row['scores'].items()}
    values = runs.summarised({s: scores.get(frozenset(s.split('+'))) for s in runs.subsets})
    if row.get('mean') is not None:
        values['mean'] = row['mean']
    cells = {key: Cell(value) for key, value in values.items()}
    return Row(f'{row["method"]} (published)', 'published', cells, '' if row['comparable'] else '‡')
