"""The table of a paper from records: our scores beside the published ones, and what is missing."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np

from benchmark.options import spell
from benchmark.records import repetition
from benchmark.records.schema import Record, Unscored, scores_in
from benchmark.records.units import unit_of
from benchmark.report import captions, gaps, statistics
from benchmark.report.layouts import LAYOUTS, Column, Layout
from benchmark.report.rows import published_row
from benchmark.report.runs import EXPECTED, NoColumn, Runs
from benchmark.report.standings import MAIN
from benchmark.report.table import Block, Table


class Entry(NamedTuple):
    """A method in one row of a paper's table; numbers are as printed, NaN where there is none.

    Attributes:
        seeds: The number of seeds that the score is of.
        mean: Mean over the seeds.
        std: Standard deviation over the seeds.
        printed: What the paper prints.
        difference: Ours less what the paper prints, NaN where they are of different subsets.
    """

    seeds: int = 0
    mean: float = math.nan
    std: float = math.nan
    printed: float = math.nan
    difference: float = math.nan


@dataclass(frozen=True)
class Paper:
    """A paper's table of one protocol and one metric.

    Attributes:
        layout: The layout.
        runs: The runs; for missing rates, those of the first rate.
        metric: The metric.
        columns: The methods that are shown.
        rows: Id of a row (subset, summary, or missing rates) -> entry of each method.
        printed: Spec -> the published row, where there is one.
        missing: What is missing, and the commands that fill it, a line each.
        told: Sentences on what was asked for.
    """

    layout: Layout
    runs: Runs
    metric: str
    columns: tuple[Column, ...]
    rows: dict[str, list[Entry]]
    printed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    told: str = ''

    @property
    def drops(self) -> dict[str, tuple[float, float]]:
        """Id of a row -> what the second method loses against the first: ours, and published."""
        sign = 1 if self.runs.higher else -1
        return {
            key: (sign * (b.mean - a.mean), sign * (b.printed - a.printed))
            for key, (a, b, *_) in self.rows.items()
        }


def papers(
    made: Table, name: str, only: Sequence[str] = (), summaries: Sequence[str] = (MAIN,)
) -> list[Paper]:
    """Makes the tables of a layout from those of a data set, one for each protocol and metric.

    Args:
        made: The table of the data set.
        name: The name of the layout.
        only: Methods or rows to show, by default all of the layout.
        summaries: The summaries beneath the subsets.

    Raises:
        NoColumn: The layout does not fit the data set, or has no run.
    """
    layout = LAYOUTS[name]
    columns = tuple(c for c in layout.columns if not only or {c.spec, _parsed(c.spec)[0]} & {*only})
    if not columns:
        own = ', '.join(column.spec for column in layout.columns)
        raise NoColumn(f'--layout {name}: --only leaves none of its methods ({own})')
    blocks = [b for b in made.blocks if _fits(layout, b.first)]
    if made.blocks and not blocks:
        count = f' with {layout.modalities} modalities' if layout.modalities else ''
        data = made.blocks[0].first.data
        raise NoColumn(
            f'--layout {name}: expected {layout.kind} data{count}, found {data["kind"]} data with '
            f'{len(data["modalities"])} modalities'
        )
    found = _by_rates(layout, columns, blocks) if layout.rows == 'rates' else []
    if layout.rows == 'subsets':
        found = [p for block in blocks for p in _by_subsets(layout, columns, block, summaries)]
    if not found:
        specs = [column.spec for column in columns]
        records = [r for block in made.blocks for r in block.first.own]
        told = f'; this makes them: {_command(records[0], specs, [0, 1, 2])}' if records else ''
        raise NoColumn(f'--layout {name}: no run of {", ".join(specs)}{told}')
    return found


def _fits(layout: Layout, runs: Runs) -> bool:
    kind, count = runs.data['kind'], len(runs.data['modalities'])
    return layout.kind in ('', kind) and layout.modalities in (0, count)


def _by_subsets(
    layout: Layout, columns: tuple[Column, ...], block: Block, summaries: Sequence[str]
) -> Iterator[Paper]:
    """Yields the tables of one protocol: of each region where the metric is Dice of several."""
    runs = block.first
    labels = {column.spec: _label(runs, column.spec) for column in columns}
    if not any(labels.values()):
        return
    regions = runs.data.get('regions', ()) if runs.main and runs.metric == 'Dice' else ()
    missing = list(_missing(runs, labels, block.unscored))
    for metric in [f'Dice_{region}' for region in regions] or [runs.metric]:
        rows_of_papers = [r for r in block.published if r.get('metric', runs.metric) == metric]
        printed = {c.spec: r for c in columns if (r := _published(c, rows_of_papers)) is not None}
        asked = [EXPECTED] if runs.absent is not None else []
        rows = {
            key: [_entry(runs, labels[c.spec], metric, key, printed.get(c.spec)) for c in columns]
            for key in dict.fromkeys([*runs.subsets, *asked, *summaries])
        }
        yield Paper(layout, runs, metric, columns, rows, printed, missing, block.told)


def _by_rates(layout: Layout, columns: tuple[Column, ...], blocks: Iterable[Block]) -> list[Paper]:
    """Returns a table for the protocols that differ in the missing rates alone."""
    members: dict[str, dict[str, Block]] = {}
    for block in blocks:
        if gaps.dependence(block.first.records[0]):
            continue  # in the papers the gaps depend on nothing
        group = members.setdefault(gaps.base(block.first.records[0]), {})
        group[gaps.given(block.first)] = block
    return [p for group in members.values() if (p := _sweep(layout, columns, group)) is not None]


def _sweep(layout: Layout, columns: tuple[Column, ...], group: dict[str, Block]) -> Paper | None:
    first = next(iter(group.values())).first
    key = MAIN if first.absent is None else EXPECTED
    told = next(iter(group.values())).told
    rows: dict[str, list[Entry]] = {}
    missing: list[str] = []
    for rates in dict.fromkeys([*layout.rates, *sorted(group)]):
        record = _with_rates(first.records[0], rates)
        title = gaps.nominal(cast(Unscored, record))
        if rates not in group:
            rows[title] = [Entry() for _ in columns]
            specs = [column.spec for column in columns]
            seeds = sorted({r['seed'] for r in first.own})
            missing.append(f'{title} %: no run; this fills it: {_command(record, specs, seeds)}')
            continue
        runs = group[rates].first
        labels = {column.spec: _label(runs, column.spec) for column in columns}
        rows[title] = [_entry(runs, label, runs.metric, key) for label in labels.values()]
        lost = _missing(runs, labels, group[rates].unscored)
        missing += [f'{title} %: {line}' for line in lost]
    if not any(entry.seeds for row in rows.values() for entry in row):
        return None
    return Paper(layout, first, first.metric, columns, rows, {}, missing, told)


def _with_rates(record: Record, rates: str) -> Record:
    return cast(Record, {**record, 'protocol': {**record['protocol'], 'rates': rates}})


def _label(runs: Runs, spec: str) -> str:
    """Returns the label of the row that a spec names, '' if it has no run."""
    able = [k for k, members in runs.groups.items() if _is(runs.records[members[0]], spec)]
    return min(able, key=lambda label: (label != spec, label), default='')


def _is(record: Record | Unscored, spec: str) -> bool:
    """Returns whether a record is of a spec; its label leaves out options that are defaults."""
    method = record['method']
    name, given = _parsed(method['label'])
    wanted, options = _parsed(spec)
    if name != wanted or not given.items() <= options.items():
        return False
    held = method['options']
    return method['label'] == spec or all(
        key in held and spell(held[key]) == value for key, value in options.items()
    )


def _parsed(spec: str) -> tuple[str, dict[str, str]]:
    name, _, options = spec.partition(':')
    pairs = (part.partition('=') for part in options.split(',') if part)
    return name, {key: value for key, _, value in pairs}


def _published(column: Column, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    named = {row['method']: row for row in reversed(rows)}
    return next((named[name] for name in column.published if name in named), None)


def _entry(
    runs: Runs, label: str, metric: str, key: str, printed: Mapping[str, Any] | None = None
) -> Entry:
    """Returns a method's entry in the column `key` of a table of runs."""
    told = published_row(printed, runs).cells[key].mean if printed else math.nan
    members = runs.groups.get(label, ())
    found = [scores_in(runs.records[i], metric) for i in members]
    scores = np.array([[each.get(s, np.nan) for s in runs.subsets] for each in found])
    values = runs.summarise(scores.reshape(len(found), len(runs.subsets)))
    column = unit_of(metric).factor * values[:, list(runs.columns).index(key)]
    column = column[~np.isnan(column)]
    if not len(column):
        return Entry(printed=told)
    mean, std = statistics.over_seeds(column.tolist())
    same = printed is not None and (key in runs.subsets or _same_subsets(runs, scores, printed))
    return Entry(len(column), mean, std, told, mean - told if same else math.nan)


def _same_subsets(runs: Runs, scores: np.ndarray, printed: Mapping[str, Any]) -> bool:
    """Returns whether a summary of ours is over the subsets that a printed mean is over."""
    every = len(runs.subsets) == 2 ** len(runs.data['modalities']) - 1
    return not np.isnan(scores).any() and (every or printed.get('mean') is None)


def _missing(runs: Runs, labels: Mapping[str, str], unscored: Sequence[Unscored]) -> Iterator[str]:
    """Yields a line for each method that has no run or fewer seeds than others."""
    members = [i for label in labels.values() for i in runs.groups.get(label, ())]
    seeds = sorted({r['seed'] for r in ([runs.records[i] for i in members] or runs.own)})
    for spec, label in labels.items():
        own = {runs.records[i]['seed'] for i in runs.groups.get(label, ())}
        lost = [seed for seed in seeds if seed not in own]
        why = captions.unscored([r for r in unscored if _is(r, spec)])
        yield from why
        if lost and not (why and any(line.startswith('refused') for line in why)):
            what = f'no seed {", ".join(map(str, lost))}' if own else 'no run'
            yield f'{spec}: {what}; this fills it: {_command(runs.records[0], [spec], lost)}'
        members = runs.groups.get(label, [])
        tested = ~np.isnan(runs.values[members, : len(runs.subsets)]).any(0)
        if members and not tested.all():
            yield f'{spec}: tested on {tested.sum()} of {len(tested)} subsets'


def _command(record: Record, specs: Sequence[str], seeds: Sequence[int]) -> str:
    """Returns the command that makes the runs of methods under the protocol of a record."""
    method = {**record['method'], 'label': 'METHODS'}
    like: dict[str, Any] = {**record, 'method': method, 'seed': 'SEEDS'}
    like.pop('tuning', None)
    text = repetition.command(cast(Record, like))
    text = text.replace('--methods METHODS', f'--methods {shlex.join(specs)}')
    return text.replace('--seeds SEEDS', f'--seeds {" ".join(map(str, seeds))}')
