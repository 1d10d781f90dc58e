"""A block of a table: methods, what no method can beat, what papers print, and the cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.errors import UserError
from benchmark.records.schema import Record, Unscored, test_scores
from benchmark.report import captions, cost_table, patterns, ranking, statistics
from benchmark.report.layout import Block, Cell, Mark, Row
from benchmark.report.ranking import Runs


def block(
    fingerprint: str,
    runs: Runs,
    failed: list[Unscored],
    published: list[Mapping],
    aliases: Mapping[str, str] | None,
) -> Block:
    """Makes the block of one protocol.

    Args:
        fingerprint: Of the data, where the protocol was run on several; empty otherwise.
        runs: The finished runs.
        failed: Records of the runs that failed.
        published: Rows that papers print for the dataset.
        aliases: Subset id -> column title, or None for all subsets.

    Raises:
        UserError: A subset of `aliases` was not tested.
    """
    titles = _columns(runs, aliases)
    kept = [runs.columns.index(key) for key in titles]
    marks = ranking.marks(runs, kept)
    made = [_method_row(label, runs, kept, marks.get(label, {})) for label in runs.groups]
    cost = None
    if runs.main:
        made += _reference_rows(runs, kept)
        made += [_published_row(row, runs, kept) for row in published]
        chosen = {label: [runs.records[i] for i in found] for label, found in runs.groups.items()}
        cost = cost_table.grid(chosen, {k: t for k, t in titles.items() if k in runs.subsets})
    return Block(
        protocol=runs.records[0]['protocol_id'],
        title=captions.title(runs),
        caption=captions.caption(runs),
        size=captions.size(runs),
        columns=titles,
        subsets=sum(key in runs.subsets for key in titles),
        rows=made,
        notes=captions.notes(runs),
        failures=captions.failures(failed),
        sources=captions.sources(published) if runs.main else [],
        training=patterns.training(runs),
        cost=cost,
        data=fingerprint,
    )


def _columns(runs: Runs, aliases: Mapping[str, str] | None) -> dict[str, str]:
    """Returns column id -> title."""
    for subset in aliases or {}:
        if subset not in runs.subsets:
            raise UserError(f'columns: no subset {subset!r} (tested: {", ".join(runs.subsets)})')
    summaries = runs.columns[len(runs.subsets) :]
    titles = dict(aliases) if aliases else {subset: subset for subset in runs.subsets}
    return titles | {key: key.replace('_', ' ') for key in summaries}


def _method_row(label: str, runs: Runs, kept: Sequence[int], marks: Mapping[int, Mark]) -> Row:
    """Returns the row of a method variant, over its seeds.

    Args:
        label: One of `runs.groups`.
        runs: The runs of the block.
        kept: Indices of the columns that are shown.
        marks: Column index -> mark.
    """
    members = runs.groups[label]
    cells = []
    for column in kept:
        values = runs.values[members, column]
        values = values[~np.isnan(values)]
        mean, std = statistics.over_seeds(values) if len(values) else (math.nan, math.nan)
        cells.append(Cell(100 * mean, 100 * std, marks.get(column, '')))
    chosen = [runs.records[i] for i in members]
    gap = _gap(chosen) if runs.main else ''
    extra = {
        **({'gap closed %': gap} if gap else {}),
        'seeds': str(len(chosen)),
        'options': captions.options(chosen[0]),
    }
    sign = '†' if any(r['collapsed'] for r in chosen) else ''
    facts = cost_table.facts(chosen) if runs.main else {}
    return Row(label, 'method', cells, sign, extra, len(chosen), facts)


def _gap(chosen: list[Record]) -> str:
    """Returns the share of the gap between chance and ceiling closed, over subsets and seeds."""
    data = chosen[0]['dataset']
    chance, ceiling = data['chance'], data['ceiling']
    if chance is None:
        return ''
    closed = [
        statistics.gap_closed(value, ceiling[subset], chance)
        for record in chosen
        for subset, value in test_scores(record).items()
        if subset in ceiling
    ]
    return f'{100 * np.nanmean(closed):.1f}' if closed else ''


def _reference_rows(runs: Runs, kept: Sequence[int]) -> list[Row]:
    """Returns the rows of the ideal observer and of chance, where they are known."""
    data = runs.records[0]['dataset']
    rows = []
    if data['ceiling']:
        values = runs.summarised({s: data['ceiling'].get(s) for s in runs.subsets})
        cells = [Cell(100 * values[c]) for c in kept]
        rows.append(Row('ceiling (ideal observer)', 'reference', cells))
    if data['chance'] is not None:
        rows.append(Row('chance', 'reference', [Cell(100 * data['chance'])] * len(kept)))
    return rows


def _published_row(row: Mapping, runs: Runs, kept: Sequence[int]) -> Row:
    """Aligns a published row, whose subsets may be named in another order."""
    given = {frozenset(subset.split('+')): value for subset, value in row['scores'].items()}
    values = runs.summarised({s: given.get(frozenset(s.split('+'))) for s in runs.subsets})
    if row.get('mean') is not None:
        values[runs.columns.index('mean')] = row['mean']
    cells = [Cell(float(values[c])) for c in kept]
    return Row(f'{row["method"]} (published)', 'published', cells, '' if row['comparable'] else '‡')
