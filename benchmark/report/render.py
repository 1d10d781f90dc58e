"""A table as Markdown, LaTeX, CSV, or text for the terminal."""

from __future__ import annotations

import csv as csv_format
import io
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from tabulate import tabulate

from benchmark.report import captions, coverage, escaping, published
from benchmark.report.cost_table import TextTable
from benchmark.report.rows import Cell, paired
from benchmark.report.runs import EXPECTED
from benchmark.report.table import Block, Table

BLANK = Cell(math.nan)

PREAMBLE = r'% \usepackage{booktabs,graphicx}'
"""First line of a file in LaTeX: the packages that its tables need."""

WIDE = 7
"""Most subsets that the terminal's table shows one by one."""


def markdown(table: Table) -> str:
    """Returns the table as Markdown, with what the methods cost."""
    style = {'best': '**{}**', 'second': '<u>{}</u>', '': '{}'}
    parts = [f'# {escaping.markdown(table.dataset)}']
    for block in table.blocks:
        extra = list(dict.fromkeys(title for row in block.rows for title in row.extra))
        parts += section(_text_table(block, block.columns, style, ' ± ', extra), 2)
        parts.append(_bullets([*_footnotes(block), *captions.origins(block)]))
        if cost := block.cost:
            parts += section(cost, 3)
    for protocol, lines in table.unfinished.items():
        parts += [f'## {escaping.markdown(protocol)}: no finished run', _bullets(lines)]
    if table.problems:
        parts += ['## Not counted', _bullets(table.problems)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _text_table(
    block: Block,
    columns: Iterable[str],
    style: Mapping[str, str],
    between: str | None,
    extra: Sequence[str] = (),
) -> TextTable:
    """Returns a block as text.

    Args:
        block: The block.
        columns: Ids of the columns to show.
        style: Mark -> format of a marked mean.
        between: What stands between mean and deviation; None leaves the deviation out.
        extra: Titles of the further columns to show.
    """
    keys, unit = list(columns), block.first.printed

    def text(cell: Cell) -> str:
        if math.isnan(cell.mean):
            return cell.text
        alone = between is None or math.isnan(cell.std)
        spread = '' if alone else f'{between}{unit.printed(cell.std)}'
        return style[cell.mark].format(unit.printed(cell.mean)) + spread

    rows = [
        [
            *([row.lead] if block.by_gaps else []),
            row.label + row.sign,
            *(text(row.cells.get(key, BLANK)) for key in keys),
            *(row.extra.get(title, '') for title in extra),
        ]
        for row in block.rows
    ]
    labels = [captions.lead(block), 'method'] if block.by_gaps else ['method']
    header = [*labels, *(block.columns[key] for key in keys), *extra]
    return TextTable(captions.title(block), captions.caption(block), header, rows, len(labels))


def _paired(block: Block) -> list[str]:
    """Returns the titles of the further columns that every format shows."""
    titles = {title for row in block.rows for title in row.extra}
    return [title for title in paired(block.widest) if title in titles]


def _footnotes(block: Block) -> list[str]:
    return [*captions.notes(block), *captions.failures(block), *published.sources(block.shown)]


def _bullets(lines: Iterable[str]) -> str:
    return '\n'.join(f'- {escaping.markdown(line)}' for line in lines)


def _escaped(text: TextTable, escape: Callable[[str], str]) -> TextTable:
    """Escapes what may stem from data; the cells that are no labels are numbers and their marks."""
    rows = [[*map(escape, row[: text.labels]), *row[text.labels :]] for row in text.rows]
    header = list(map(escape, text.header))
    caption = '\n\n'.join(map(escape, text.caption.split('\n\n')))
    return TextTable(escape(text.title), caption, header, rows, text.labels)


def section(text: TextTable, level: int) -> list[str]:
    """Returns heading, caption and table as paragraphs of Markdown."""
    text = _escaped(text, escaping.markdown)
    rule = [*['---'] * text.labels, *['---:'] * (len(text.header) - text.labels)]
    lines = [f'| {" | ".join(row)} |' for row in [text.header, rule, *text.rows]]
    return [f'{"#" * level} {text.title}', text.caption, '\n'.join(lines)]


def latex(table: Table) -> str:
    """Returns one booktabs table per block, and one of what its methods cost."""
    style = {'best': r'\textbf{{{}}}', 'second': r'\underline{{{}}}', '': '{}'}
    parts = [PREAMBLE]
    for block in table.blocks:
        kinds = [(row.kind, row.lead) for row in block.rows]
        rules = [i for i in range(1, len(kinds)) if kinds[i] != kinds[i - 1]]
        made = _text_table(block, block.columns, style, r'\,$\pm$\,', _paired(block))
        text = _escaped(made, escaping.tex)
        if table.transposed and not block.by_gaps:
            text, rules = _transposed(text, block), [len(block.subsets)]
        parts.append(_tex_table(text, rules, _footnotes(block)))
        if cost := block.cost:
            parts.append(_tex_table(_escaped(cost, escaping.tex)))
    return '\n\n'.join(parts) + '\n'


def _transposed(text: TextTable, block: Block) -> TextTable:
    """Turns methods into columns; filled circles tell which modalities a row's subset has."""
    names = block.first.data['modalities']
    rows, extra = [], _paired(block)
    for k, (column, title) in enumerate(
        zip([*block.columns, *extra], text.header[1:], strict=True), 1
    ):
        circles = [r'$\bullet$' if m in column.split('+') else r'$\circ$' for m in names]
        if column not in block.subsets:
            circles = [title, *[''] * (len(names) - 1)]
        rows.append([*circles, *(row[k] for row in text.rows)])
    header = [*map(escaping.tex, names), *(row[0] for row in text.rows)]
    return TextTable(text.title, text.caption, header, rows, len(names))


def _tex_table(text: TextTable, rules: Sequence[int] = (), notes: Sequence[str] = ()) -> str:
    """Returns a floating table of LaTeX's text, with a rule before each of the rows `rules`."""
    count, lines = text.labels, list[str]()
    for i, row in enumerate(text.rows):
        lines += [r'\midrule'] if i in rules else []
        lines.append(_tex_line(row))
    body = [
        r'\begin{table*}',
        r'\centering',
        r'\small',
        rf'\caption{{{text.title}.}}',
        # Only a table that is wider than the page is made smaller.
        r'\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{'
        rf'\begin{{tabular}}{{{"l" * count}{"r" * (len(text.header) - count)}}}',
        r'\toprule',
        _tex_line(text.header),
        r'\midrule',
        *lines,
        r'\bottomrule',
        r'\end{tabular}}',
        r'\par\smallskip\raggedright\footnotesize',
        *(rf'\par {paragraph}' for paragraph in text.caption.split('\n\n')),
        *(rf'\par {escaping.tex(note)}.' for note in notes),
        r'\end{table*}',
    ]
    return '\n'.join(body)


def latex_of(tables: Iterable[TextTable], notes: Sequence[str] = ()) -> str:
    """Returns tables of plain text as LaTeX, with notes beneath the last one."""
    parts, found = [PREAMBLE], list(tables)
    for i, text in enumerate(found, 1):
        # Cells may hold '<' and '>', so that all of them are escaped.
        whole = replace(text, labels=len(text.header))
        escaped = replace(_escaped(whole, escaping.tex), labels=text.labels)
        parts.append(_tex_table(escaped, notes=notes if i == len(found) else ()))
    return '\n\n'.join(parts) + '\n'


def _tex_line(cells: Iterable[str]) -> str:
    return ' & '.join(cells) + r' \\'


def csv(table: Table) -> str:
    """Returns one line per method and protocol: plain numbers, scores in their printed units."""
    ids = list(dict.fromkeys(key for block in table.blocks for key in block.columns))
    rows = [
        (row, [row.cells.get(k, BLANK) if k in block.columns else BLANK for k in ids])
        for block in table.blocks
        for row in block.rows
        if row.kind == 'method'
    ]
    facts = list(dict.fromkeys(name for row, _ in rows for name in row.facts))
    lines: list[list[float | str]] = [
        ['method', 'protocol', 'seeds', *ids, *(f'{key}_std' for key in ids), *facts]
    ]
    for row, cells in rows:
        numbers = [*(cell.mean for cell in cells), *(cell.std for cell in cells)]
        told = [row.facts.get(name, '') for name in facts]
        lines.append([row.label, row.key, row.seeds, *numbers, *told])
    return comma_separated(lines)


def comma_separated(rows: Iterable[Sequence[float | str]]) -> str:
    """Returns rows as CSV. Text that a spreadsheet would compute as a formula is quoted as text."""
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator='\n')
    writer.writerows([list(map(_plain, row)) for row in rows])
    return out.getvalue()


def _plain(value: float | str) -> str:
    """Returns a number for the CSV file; whole ones with all their digits."""
    if isinstance(value, str):
        return escaping.csv(value)
    if isinstance(value, int):
        return str(value)
    return '' if math.isnan(value) else f'{value:.6g}'


def terminal(
    table: Table, protocols: Collection[str] | None = None, color: bool | None = None
) -> str:
    """Returns the table as text: subsets, mean and worst, without deviations.

    Of more than 7 subsets, which no terminal can show side by side, the means by number of missing
    modalities stand in their place.

    Args:
        table: The table.
        protocols: Only the blocks of these protocol ids.
        color: Whether to mark by bold and underline instead of by signs; by default where stdout is
            a terminal.
    """
    color = sys.stdout.isatty() if color is None else color
    wanted = [b for b in table.blocks if protocols is None or b.protocols & set(protocols)]
    return '\n\n'.join(_terminal_block(block, color) for block in wanted)


def _terminal_block(block: Block, color: bool) -> str:
    style = {'best': '*{}', 'second': '_{}', '': '{}'}
    if color:
        style = {'best': '\033[1m{}\033[0m', 'second': '\033[4m{}\033[0m', '': '{}'}
    columns, count, shown = list(block.columns), len(block.subsets), _fitting(block)
    text = _text_table(block, shown, style, None, _paired(block))
    marked = any(row.cells.get(c, BLANK).mark for row in block.rows for c in columns)
    notes = ['* best and _ second, where marked'] if marked and not color else []
    if 'worst' in shown:
        notes.append(f'{block.columns["worst"]}: for each seed {coverage.worst(block.widest)}')
    notes += coverage.notes(block.widest)
    if block.widest.main and len(block.widest.groups) > 1 and not marked:
        notes.append(captions.unmarked(block.widest))
    notes += map(escaping.terminal, [*captions.notes(block), *captions.failures(block)])
    if count > WIDE:
        notes.append(f'{count} subsets; the .md file has each')
    if any(row.sign == '‡' for row in block.rows):
        notes.append('‡ not comparable; the .md file says why')
    if block.first.external:
        notes.append('external: predictions of other code; the .md file says what that means')
    key = '' if block.by_gaps else f'{block.first.protocol_id}, '
    return '\n'.join(
        [f'{escaping.terminal(text.title)}  ({key}{captions.size(block)})', grid(text), *notes]
    )


def _fitting(block: Block) -> list[str]:
    """Returns the columns that a terminal shows side by side.

    Of more than 8 numbers of missing modalities these are 8, evenly spaced.
    """
    columns, count = list(block.columns), len(block.subsets)
    if count <= WIDE:
        return columns[: count + 2 + (EXPECTED in columns)]
    lacking = [key for key in columns[count:] if key.startswith('missing_')]
    last = len(lacking) - 1
    some = {lacking[round(k * last / WIDE)] for k in range(WIDE + 1)} if last > WIDE else lacking
    return [key for key in columns[count:] if key not in lacking or key in some]


def grid(text: TextTable) -> str:
    """Returns a table of text for the terminal."""
    text = _escaped(text, escaping.terminal)
    align = ['left'] * text.labels + ['right'] * (len(text.header) - text.labels)
    return tabulate(text.rows, text.header, 'simple', colalign=align, disable_numparse=True)


FORMATS: dict[str, Callable[[Table], str]] = {'md': markdown, 'tex': latex, 'csv': csv}
"""Suffix of a file -> what renders its content."""
