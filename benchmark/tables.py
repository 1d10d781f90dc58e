"""Tables from records alone; nothing is trained, no torch is loaded.

python benchmark/tables.py results
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # Before all other imports: the script's own folder shadows the standard library's statistics.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
from collections.abc import Callable, Iterable, Mapping  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmark import captions, ranking, records, statistics  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.ranking import Runs  # noqa: E402
from benchmark.render import FORMATS, Block, Cell, Mark, Row, Table, terminal  # noqa: E402
from benchmark.schema import Failure, Outcomes, Record, test_scores  # noqa: E402

PUBLISHED = Path(__file__).resolve().parent.parent / 'results' / 'published'

Loader = Callable[[Record], Outcomes | None]
"""Gives a record's outcomes, or None where they are not at hand."""


def table(
    complete: Iterable[Record],
    outcomes: Loader,
    failed: Iterable[Failure] = (),
    published: Iterable[Mapping] = (),
    columns: Mapping[str, str] | None = None,
) -> Table:
    """Makes the table of one dataset.

    Args:
        complete: Records of finished runs.
        outcomes: Gives their outcomes, for significance.
        failed: Records of failed runs, to be listed.
        published: Rows of `results/published/<dataset>.json`.
        columns: Subset id -> column title, in the order of a paper's layout; by default all
            subsets, smallest first.
    """
    problems: list[str] = []
    blocks: dict[tuple[str, str], list[Record]] = {}
    for record in complete:
        blocks.setdefault((record['protocol_id'], record['dataset']['fingerprint']), []).append(
            record
        )
    name = ''
    made = []
    failures = list(failed)
    for (protocol, fingerprint), members in sorted(blocks.items()):
        name = members[0]['dataset']['name']
        here = [f for f in failures if _block_of(f) == (protocol, fingerprint)]
        failures = [f for f in failures if f not in here]
        runs = ranking.verify(members, outcomes, problems)
        if runs.records:
            twins = sum(other == protocol for other, _ in blocks) > 1
            data = fingerprint if twins else ''
            made.append(_block(data, runs, here, list(published), columns))
    problems += [captions.failure(f) for f in failures]
    return Table(name or (failures[0]['dataset']['name'] if failures else ''), made, problems)


def _block_of(record: Record | Failure) -> tuple[str, str]:
    return record['protocol_id'], record['dataset']['fingerprint']


def _block(
    fingerprint: str,
    runs: Runs,
    failed: list[Failure],
    published: list[Mapping],
    aliases: Mapping[str, str] | None,
) -> Block:
    data = runs.records[0]['dataset']
    titles = _columns(runs, aliases)
    kept = [runs.columns.index(key) for key in titles]
    marks = ranking.marks(runs, kept)
    rows = [
        _method_row(label, members, runs, kept, marks.get(label, {}))
        for label, members in runs.groups.items()
    ]
    rows += _reference_rows(runs, kept)
    rows += [_published_row(row, runs, kept) for row in published]
    return Block(
        protocol=runs.records[0]['protocol_id'],
        title=captions.title(data),
        caption=captions.caption(runs),
        size=captions.size(runs),
        columns=titles,
        subsets=sum(key in runs.subsets for key in titles),
        rows=rows,
        notes=captions.notes(runs, failed),
        sources=captions.sources(published),
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


def _method_row(
    label: str, members: list[int], runs: Runs, kept: list[int], marks: Mapping[int, Mark]
) -> Row:
    cells = []
    for column in kept:
        values = runs.values[members, column]
        values = values[~np.isnan(values)]
        mean, std = statistics.over_seeds(values) if len(values) else (math.nan, math.nan)
        cells.append(Cell(100 * mean, 100 * std, marks.get(column, '')))
    chosen = [runs.records[i] for i in members]
    seconds = [r['cost']['train_seconds'] + r['cost']['teacher_seconds'] for r in chosen]
    gap = _gap(chosen)
    extra = {
        **({'gap closed %': gap} if gap else {}),
        'params': f'{chosen[0]["cost"]["deployed_parameters"] / 1e6:.2f} M',
        'train s': f'{np.mean(seconds):.0f}',
        'seeds': str(len(chosen)),
        'options': chosen[0]['method']['source'],
    }
    collapsed = any(r['collapsed'] for r in chosen)
    return Row(label, 'method', cells, '†' if collapsed else '', extra, len(chosen))


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


def _reference_rows(runs: Runs, kept: list[int]) -> list[Row]:
    data = runs.records[0]['dataset']
    rows = []
    if data['ceiling']:
        values = runs.summarised({s: data['ceiling'].get(s) for s in runs.subsets})
        cells = [Cell(100 * values[c]) for c in kept]
        rows.append(Row('ceiling (ideal observer)', 'reference', cells))
    if data['chance'] is not None:
        rows.append(Row('chance', 'reference', [Cell(100 * data['chance'])] * len(kept)))
    return rows


def _published_row(row: Mapping, runs: Runs, kept: list[int]) -> Row:
    """Aligns a published row, whose subsets may be named in another order."""
    given = {frozenset(subset.split('+')): value for subset, value in row['scores'].items()}
    values = runs.summarised({s: given.get(frozenset(s.split('+'))) for s in runs.subsets})
    if row.get('mean') is not None:
        values[runs.columns.index('mean')] = row['mean']
    cells = [Cell(float(values[c])) for c in kept]
    return Row(f'{row["method"]} (published)', 'published', cells, '' if row['comparable'] else '‡')


def write_tables(results: Path, dataset: str, runs: Path | None = None, **options: Any) -> Table:
    """Reads a dataset's records and writes `<results>/tables/<dataset>.md`, `.tex` and `.csv`.

    Args:
        results: The results folder.
        dataset: Name of the dataset, which is its folder's.
        runs: The folder of runs, by default `<results>/runs`.
        options: Further arguments of `table`.

    Raises:
        UserError: There is no record, or the tables cannot be written.
    """
    root = (runs or results / 'runs') / dataset
    found = records.scan(root)
    if not any(found):
        raise UserError(f'{root}: no {records.RECORD} found')
    files = {record['identity']: path for path, record in found.complete.items()}

    def load(record: Record) -> Outcomes | None:
        return records.read_outcomes(files[record['identity']].with_name(records.OUTCOMES))

    made = table(
        found.complete.values(), load, found.failed.values(), published(dataset), **options
    )
    problems = [line.replace(f'{root}/', '') for line in [*found.problems, *made.problems]]
    made = Table(dataset, made.blocks, problems)
    for suffix, render in FORMATS.items():
        with records.atomic(results / 'tables' / f'{dataset}.{suffix}') as file:
            file.write(render(made).encode())
    return made


def published(dataset: str) -> list[dict[str, Any]]:
    """Returns the rows that papers print for a dataset; none where no file holds them."""
    path = PUBLISHED / f'{dataset}.json'
    return json.loads(path.read_text(encoding='utf-8'))['rows'] if path.is_file() else []


def brief(record: Record) -> str:
    """Tells a run's test scores in one line."""
    metric, scores = record['dataset']['metric'], test_scores(record)
    if not scores:
        return f'{metric} is undefined on every subset'
    last = min if record['dataset']['higher_is_better'] else max
    subset = last(scores, key=scores.__getitem__)
    mean = sum(scores.values()) / len(scores)
    return f'{metric} {100 * mean:.2f} % mean, {100 * scores[subset]:.2f} % worst ({subset})'


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 for bad arguments."""
    p = argparse.ArgumentParser(prog='benchmark/tables.py', description=__doc__.split('\n')[0])
    p.add_argument('results', type=Path, help='folder that holds runs/, and takes tables/')
    p.add_argument('--runs', type=Path, help='folder of runs, by default RESULTS/runs')
    p.add_argument('--datasets', nargs='+', metavar='NAME', help='by default all')
    p.add_argument(
        '--columns',
        nargs='+',
        metavar='SUBSET=TITLE',
        help="subsets in the order and by the titles of a paper's table",
    )
    args = p.parse_args(argv)
    runs = args.runs or args.results / 'runs'
    columns = dict(c.partition('=')[::2] for c in args.columns) if args.columns else None
    try:
        names = args.datasets or sorted(d.name for d in runs.glob('*') if d.is_dir())
        if not names:
            raise UserError(f'{runs}: no runs found')
        for name in names:
            made = write_tables(args.results, name, runs, columns=columns)
            print(f'\n{terminal(made)}')
            for line in made.problems:
                print(f'not counted: {line}')
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
