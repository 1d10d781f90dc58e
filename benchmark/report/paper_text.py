"""The table of a paper as text, and its files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmark.records.repetition import placed
from benchmark.records.units import Unit, unit_of
from benchmark.report import captions, escaping, published, settings, writer
from benchmark.report.cost_table import TextTable
from benchmark.report.paper import Entry, Paper, papers
from benchmark.report.render import comma_separated, grid, latex_of, section
from benchmark.report.runs import NoColumn
from benchmark.report.standings import MAIN
from benchmark.report.table import Table

WIDE = 4
"""Most methods with published numbers that a page or a terminal shows side by side."""


class Written(NamedTuple):
    """What was written of a layout.

    Attributes:
        stem: The path of the files without their suffixes.
        tables: The tables, as the terminal shows them.
        notes: What is missing, a line each.
    """

    stem: Path
    tables: list[TextTable]
    notes: list[str]


def write(
    results: Path,
    made: Table,
    name: str,
    only: Sequence[str] = (),
    summaries: Sequence[str] = (),
    runs: Path | None = None,
) -> Written:
    """Writes `<results>/tables/<dataset>-<layout>.md`, `.tex` and `.csv`.

    Args:
        results: The results folder.
        made: The table of the data set.
        name: The name of the layout.
        only: Methods or rows to show, by default all of the layout.
        summaries: The summaries beneath the subsets, by default the mean.
        runs: The folder of runs, by default `<results>/runs`.

    Raises:
        Lacking: The layout does not fit the data set, or has no run.
    """
    runs = runs or results / 'runs'
    try:
        found = papers(made, name, only, summaries or (MAIN,))
    except NoColumn as error:
        raise writer.Lacking(placed(f'{made.dataset}: {error}', runs)) from None
    narrow = [text_table(part) for paper in found for part in _parts(paper)]
    missing = list(dict.fromkeys(line for paper in found for line in paper.missing))
    rows = list({row['method']: row for p in found for row in p.printed.values()}.values())
    if not rows:
        told = f'published numbers: results/published has none of this table for {made.dataset}'
        missing.append(told)
    missing = [placed(f'missing: {line}', runs) for line in missing]
    sources = published.sources(rows)
    base = made.stem.name if made.stem else made.dataset
    stem = results / 'tables' / f'{base}-{name}'
    parts = [escaping.markdown(f'# {made.dataset}: {name}')]
    for paper in found:
        parts += section(text_table(paper), 2)
    parts += ['\n'.join(f'- {escaping.markdown(note)}' for note in [*missing, *sources])]
    # A reader of the paper does not run commands, and its author finds them in the source.
    comments = ''.join(f'% {escaping.terminal(line)}\n' for line in missing)
    content = {
        'md': '\n\n'.join(parts) + '\n',
        'tex': comments + latex_of(narrow, sources),
        'csv': comma_separated(_plain(found, name)),
    }
    for suffix, whole in content.items():
        writer.write_text(stem.with_name(f'{stem.name}.{suffix}'), whole)
    return Written(stem, narrow, missing)


def _parts(paper: Paper) -> list[Paper]:
    """Returns a table that is no wider than a page, or several that are."""
    count = len(paper.columns)
    size = math.ceil(count / math.ceil(count / WIDE)) if paper.printed else count
    parts = []
    for start in range(0, count, size):
        chosen = slice(start, start + size)
        columns = paper.columns[chosen]
        rows = {key: entries[chosen] for key, entries in paper.rows.items()}
        printed = {c.spec: paper.printed[c.spec] for c in columns if c.spec in paper.printed}
        parts.append(replace(paper, columns=columns, rows=rows, printed=printed))
    return parts


def show(written: Written) -> None:
    """Prints what `write` returned."""
    for text in written.tables:
        print(f'\n{escaping.terminal(text.title)}\n{grid(text)}')
    signed = any('‡' in title for text in written.tables for title in text.header)
    if signed:
        print('‡ not comparable; the .md file says why')
    for note in written.notes:
        print(escaping.terminal(note))
    print(f'written: {written.stem}.md, .tex, .csv')


HEADER = ['layout', 'protocol', 'metric', 'row', 'method', 'seeds', 'score', 'score_std',
          'published', 'published_as', 'comparable', 'difference']  # fmt: skip


def _plain(found: Iterable[Paper], name: str) -> list[list[float | str]]:
    """Returns the header and the lines of the CSV file, one for each method in each row."""
    lines: list[list[float | str]] = [list(HEADER)]
    for paper in found:
        for key, entries in paper.rows.items():
            for column, entry in zip(paper.columns, entries, strict=True):
                row = paper.printed.get(column.spec)
                told = [row['method'], 'yes' if row['comparable'] else 'no'] if row else ['', '']
                own = [name, paper.runs.protocol_id, paper.metric, key, column.spec]
                numbers = [entry.seeds, entry.mean, entry.std, entry.printed]
                lines.append([*own, *numbers, *told, entry.difference])
    return lines


def text_table(paper: Paper) -> TextTable:
    """Returns a paper's table as text: filled circles tell which modalities a subset has."""
    runs, names = paper.runs, paper.runs.data['modalities']
    unit = unit_of(paper.metric)
    header, by_rates = list[str](), paper.layout.rows == 'rates'
    rates = f'missing in training % ({"/".join(names)})'
    for column in paper.columns:
        header.append(column.spec)
        if row := paper.printed.get(column.spec):
            sign = '' if row['comparable'] else '‡'
            header += [f'published{sign}', f'diff.{sign}']
    signs = '' if all(row['comparable'] for row in paper.printed.values()) else '‡'
    two = paper.layout.drop and len(paper.columns) == 2
    both = two and len(paper.printed) == 2
    header += ['drop'] * two + [f'drop (published){signs}'] * both
    rows = []
    for key, entries in paper.rows.items():
        cells = []
        for column, entry in zip(paper.columns, entries, strict=True):
            cells.append(_score(entry, unit))
            if column.spec in paper.printed:
                cells += [unit.printed(entry.printed), unit.printed(entry.difference, '+')]
        if two:
            own, theirs = paper.drops[key]
            cells += [unit.printed(own, '+')] + [unit.printed(theirs, '+')] * both
        rows.append([*_row_title(paper, key), *cells])
    told = f'{paper.metric} {"↑" if runs.higher else "↓"}{unit.suffix}'
    return TextTable(
        title=f'{settings.named(runs)}: {told}',
        caption=_caption(paper),
        header=[rates, *header] if by_rates else [*names, *header],
        rows=rows,
        labels=1 if by_rates else len(names),
    )


def _row_title(paper: Paper, key: str) -> list[str]:
    if paper.layout.rows == 'rates':
        return [key]
    names = paper.runs.data['modalities']
    if key in paper.runs.subsets:
        return ['●' if name in key.split('+') else '○' for name in names]
    return [key.replace('_', ' '), *[''] * (len(names) - 1)]


def _score(entry: Entry, unit: Unit) -> str:
    spread = '' if math.isnan(entry.std) else f' ± {unit.printed(entry.std)}'
    return '' if math.isnan(entry.mean) else f'{unit.printed(entry.mean)}{spread}'


def _caption(paper: Paper) -> str:
    """Returns paragraphs on the paper, on how to read the table, and on protocol and samples."""
    runs = paper.runs
    parts = [settings.measured(paper.metric, runs)]
    if paper.layout.rows == 'rates':
        what = 'mean over the subsets' if runs.absent is None else 'expected score'
        parts.append(f'A cell is the {what} at test.')
    else:
        parts.append('A filled circle is a modality that is available at test.')
    if paper.printed:
        pairs = ', '.join(f'{k} {row["method"]}' for k, row in paper.printed.items())
        parts.append(
            f'Published beside our score is the one that a paper has ({pairs}); diff. is our score '
            'less the published one.'
        )
    if paper.told:
        parts.append(paper.told)
    if paper.layout.drop:
        parts.append(
            'The drop is what the second method has less than the first, so that it is negative '
            'where the second is worse.'
        )
    about = f'Protocol {runs.protocol_id}: {settings.words(runs.records[0]["protocol"])}.'
    seeds = max((e.seeds for row in paper.rows.values() for e in row), default=0)
    tested = f'± is the standard deviation (ddof = 1) over up to {seeds} seeds. ' * (seeds > 1)
    tested += f'Our scores are on {settings.samples(runs)}. No difference is tested here.'
    tested += f' {captions.numbers(runs)}'.rstrip()
    return '\n\n'.join([f'{paper.layout.about}.', ' '.join(parts), about, tested])
