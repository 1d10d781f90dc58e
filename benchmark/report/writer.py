"""Writes a data set's tables from its records; no torch is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import UserError, unknown
from benchmark.files import ROOT, writing
from benchmark.records import store
from benchmark.records.schema import Failure, Outcomes, Record, test_scores
from benchmark.report import blocks, captions, patterns, ranking
from benchmark.report.layout import Table
from benchmark.report.render import FORMATS, terminal

PUBLISHED = ROOT / 'results' / 'published'

Loader = Callable[[Record], Outcomes | None]
"""Gives a record's outcomes, or None where they are not at hand."""


class Lacking(UserError):
    """A dataset's records have nothing of what was asked for; those of another may.

    Args:
        error: What is lacking.
        metrics: The metrics that the records hold, where one was asked for that they do not.
    """

    def __init__(self, error: object, metrics: Iterable[str] = ()) -> None:
        super().__init__(str(error))
        self.metrics = set(metrics)


def table(
    complete: Iterable[Record],
    outcomes: Loader,
    failed: Iterable[Failure] = (),
    published: Iterable[Mapping] = (),
    columns: Mapping[str, str] | None = None,
    metric: str = '',
) -> Table:
    """Makes the table of one dataset.

    Args:
        complete: Records of finished runs.
        outcomes: Gives their outcomes, for significance.
        failed: Records of failed runs, to be listed.
        published: Rows of `results/published/<dataset>.json`.
        columns: Subset id -> column title, in the order of a paper's layout; by default all
            subsets, smallest first.
        metric: The metric to show, by default the dataset's own.
    """
    problems: list[str] = []
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in complete:
        groups.setdefault(_block_of(record), []).append(record)
    name = ''
    made = []
    failures = list(failed)
    for (protocol, fingerprint), members in sorted(groups.items()):
        name = members[0]['dataset']['name']
        here = [f for f in failures if _block_of(f) == (protocol, fingerprint)]
        failures = [f for f in failures if f not in here]
        runs = ranking.verify(members, outcomes, problems, metric)
        if runs.records:
            twins = sum(other == protocol for other, _ in groups) > 1
            data = fingerprint if twins else ''
            made.append(blocks.block(data, runs, here, list(published), columns))
    problems += captions.failures(failures)
    return Table(name or (failures[0]['dataset']['name'] if failures else ''), made, problems)


def _block_of(record: Record | Failure) -> tuple[str, str]:
    return record['protocol_id'], record['dataset']['fingerprint']


def write_tables(
    results: Path,
    dataset: str,
    runs: Path | None = None,
    by_gaps: bool = False,
    metric: str = '',
    columns: Mapping[str, str] | None = None,
) -> Table:
    """Reads a dataset's records and writes `<results>/tables/<dataset>.md`, `.tex` and `.csv`.

    Args:
        results: The results folder.
        dataset: Name of the dataset, which is its folder's.
        runs: The folder of runs, by default `<results>/runs`.
        by_gaps: Also write `<dataset>-gaps.*`, with rows by the gaps of the training data.
        metric: The metric to show, by default the dataset's own; another's name joins the files'.
        columns: As in `table`.

    Raises:
        Lacking: No record holds the metric, or none was made with gaps though `by_gaps` is set.
        UserError: There is no record, or the tables cannot be written.
    """
    root = (runs or results / 'runs') / dataset
    found = store.scan(root)
    if not any(found):
        raise UserError(f'{root}: no {store.RECORD} found')
    if metric and metric not in (known := _metrics(found)):
        raise Lacking(unknown(f'metric of {dataset}', metric, known), known)
    files = {record['identity']: path for path, record in found.complete.items()}

    def load(record: Record) -> Outcomes | None:
        return store.read_outcomes(files[record['identity']].with_name(store.OUTCOMES))

    failed = list(found.failed.values())
    made = table(found.complete.values(), load, failed, published(dataset), columns, metric)
    problems = [line.replace(f'{root}/', '') for line in [*found.problems, *made.problems]]
    made = Table(dataset, made.blocks, problems)
    own = {record['dataset']['metric'] for record in found.complete.values()}
    suffix = f'-{metric}' if metric and metric not in own else ''
    joined = patterns.joined(made, failed) if by_gaps else None
    if joined and not joined.blocks and not any(f['protocol'].get('rates') for f in failed):
        raise Lacking(f'{dataset}: no run with gaps in the training data (rates)')
    _write(results / 'tables' / f'{dataset}{suffix}', made)
    if joined:
        _write(results / 'tables' / f'{dataset}-gaps{suffix}', joined)
    return dataclasses.replace(made, patterns=joined)


def _write(stem: Path, made: Table) -> None:
    for suffix, render in FORMATS.items():
        with writing(stem.with_name(f'{stem.name}.{suffix}')) as file:
            file.write(render(made).encode())


def _metrics(found: store.Scan) -> set[str]:
    """Returns the metrics that some record holds on the test split."""
    tested = [r['scores']['test'] for r in found.complete.values()]
    return {name for subsets in tested for scores in subsets.values() for name in scores}


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


def show(made: Table, protocols: set[str] | None = None) -> None:
    """Prints a table, that of the training patterns where there is one, and what is not counted.

    Args:
        made: The table.
        protocols: Only the blocks of these protocol ids.
    """
    for part in (made, made.patterns):
        if part is not None:
            print(f'\n{terminal(part, protocols)}')
    for line in made.problems:
        print(f'not counted: {line}')
