"""A table as Markdown, LaTeX, CSV, or text for the terminal."""

from __future__ import annotations

import csv as csv_format
import io
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from tabulate import tabulate

from benchmark.report import captions
from benchmark.report.table import Block, Cell, Row, Table

BLANK = Cell(math.nan)

WIDE = 7
"""Most subsets that the terminal's table shows one by one."""


def markdown(table: Table) -> str:
    """Returns the table as Markdown, with what the methods cost."""
    parts = [f'# {table.dataset}']
    style = {'best': '**{}**', 'second': '<u>{}</u>', '': '{}'}
    for block in table.blocks:
        extra = list(dict.fromkeys(title for row in block.rows for title in row.extra))
        lines = [
            [
                *_stub(block, row),
                *_texts(row, block.columns, style, ' ± '),
                *(row.extra.get(title, '') for title in extra),
            ]
            for row in block.rows
        ]
        stub = _stub_titles(block)
        header = [*stub, *block.columns.values(), *extra]
        parts += [f'## {captions.title(block)}', captions.caption(block)]
        parts += [_pipes(header, lines, len(stub)), _bullets(_footnotes(block))]
        if cost := block.cost:
            parts += [f'### {cost.title}', cost.caption, _pipes(cost.header, cost.rows, 1)]
    if table.problems:
        parts += ['## Not counted', _bullets(table.problems)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _bullets(lines: Iterable[str]) -> str:
    return '\n'.join(f'- {line}' for line in lines)


def _pipes(header: list[str], lines: Sequence[list[str]], left: int) -> str:
    """Returns a Markdown table whose first `left` columns are text."""
    cells = [[text.replace('|', r'\|') for text in line] for line in [header, *lines]]
    rule = [*['---'] * left, *['---:'] * (len(header) - left)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [cells[0], rule, *cells[1:]])


def _footnotes(block: Block) -> list[str]:
    return [*captions.notes(block), *captions.failures(block), *captions.sources(block)]


def _stub_titles(block: Block) -> list[str]:
    return [captions.lead(block), 'method'] if block.by_gaps else ['method']


def _stub(block: Block, row: Row) -> list[str]:
    """Returns what stands before a row's numbers."""
    return [row.lead, row.label + row.sign] if block.by_gaps else [row.label + row.sign]


def _texts(
    row: Row, columns: Iterable[str], style: Mapping[str, str], between: str | None
) -> list[str]:
    """Returns the cells as text, with the deviation after `between` unless that is None."""
    texts = []
    for cell in (row.cells.get(column, BLANK) for column in columns):
        text = '' if math.isnan(cell.mean) else style[cell.mark].format(f'{cell.mean:.2f}')
        if text and between is not None and not math.isnan(cell.std):
            text += f'{between}{cell.std:.2f}'
        texts.append(text)
    return texts


def latex(table: Table) -> str:
    """Returns one booktabs table per block, and one of what its methods cost."""
    parts = [r'% \usepackage{booktabs}']
    style = {'best': r'\textbf{{{}}}', 'second': r'\underline{{{}}}', '': '{}'}
    for block in table.blocks:
        lines: list[str] = []
        for before, row in zip([None, *block.rows], block.rows, strict=False):
            if before and (before.kind, before.lead) != (row.kind, row.lead):
                lines.append(r'\midrule')
            texts = _texts(row, block.columns, style, r'\,$\pm$\,')
            lines.append(_tex_line([*map(_tex, _stub(block, row)), *texts]))
        stub = _stub_titles(block)
        caption = f'{captions.title(block)}. {captions.caption(block)}'
        header = [*stub, *block.columns.values()]
        parts.append(_tex_table(caption, header, len(stub), lines, _footnotes(block)))
        if cost := block.cost:
            lines = [_tex_line(map(_tex, line)) for line in cost.rows]
            parts.append(_tex_table(f'{cost.title}. {cost.caption}', cost.header, 1, lines))
    return '\n\n'.join(parts) + '\n'


def _tex_line(cells: Iterable[str]) -> str:
    return ' & '.join(cells) + r' \\'


def _tex_table(
    caption: str, header: list[str], left: int, lines: list[str], notes: Sequence[str] = ()
) -> str:
    """Returns a floating table; `left` columns of text, `lines` as LaTeX, the rest as text."""
    body = [
        r'\begin{table}',
        r'\centering',
        r'\small',
        rf'\caption{{{_tex(caption)}}}',
        rf'\begin{{tabular}}{{{"l" * left}{"r" * (len(header) - left)}}}',
        r'\toprule',
        _tex_line(map(_tex, header)),
        r'\midrule',
        *lines,
        r'\bottomrule',
        r'\end{tabular}',
        *([r'\par\smallskip\raggedright\footnotesize'] if notes else []),
        *(rf'\par {_tex(note)}.' for note in notes),
        r'\end{table}',
    ]
    return '\n'.join(body)


_TEX: dict[str, str | int | None] = {
    **{c: f'\\{c}' for c in '&%$#_{}'},
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '±': r'$\pm$',
    '↓': r'$\downarrow$',
    '↑': r'$\uparrow$',
    '†': r'$^\dagger$',
    '‡': r'$^\ddagger$',
}


def _tex(text: str) -> str:
    return text.translate(str.maketrans(_TEX))


def csv(table: Table) -> str:
    """Returns one line per method and protocol: plain numbers, scores in percent."""
    ids = list(dict.fromkeys(key for block in table.blocks for key in block.columns))
    rows = [
        (row, [row.cells.get(k, BLANK) if k in block.columns else BLANK for k in ids])
        for block in table.blocks
        for row in block.rows
        if row.kind == 'method'
    ]
    facts = list(dict.fromkeys(name for row, _ in rows for name in row.facts))
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator='\n')
    writer.writerow(['method', 'protocol', 'seeds', *ids, *(f'{key}_std' for key in ids), *facts])
    for row, cells in rows:
        numbers = [*(cell.mean for cell in cells), *(cell.std for cell in cells)]
        told = [row.facts.get(name, '') for name in facts]
        writer.writerow([row.label, row.key, row.seeds, *map(_plain, [*numbers, *told])])
    return out.getvalue()


def _plain(value: float | str) -> str:
    """Returns a number for the CSV file; whole ones with all their digits."""
    if isinstance(value, int | str):
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
    columns, stub, count = list(block.columns), _stub_titles(block), len(block.subsets)
    shown = columns[count:] if count > WIDE else columns[: count + 2]
    lines = [[*_stub(block, row), *_texts(row, shown, style, None)] for row in block.rows]
    header = [*stub, *(block.columns[column] for column in shown)]
    align = [*['left'] * len(stub), *['right'] * len(shown)]
    grid = tabulate(lines, header, 'simple', colalign=align, disable_numparse=True)
    marked = any(row.cells.get(c, BLANK).mark for row in block.rows for c in columns)
    notes = ['* best and _ second, where marked'] if marked and not color else []
    notes += [*captions.notes(block), *captions.failures(block)]
    if count > WIDE:
        notes.append(f'{count} subsets; the .md file has each')
    if any(row.sign == '‡' for row in block.rows):
        notes.append('‡ not comparable; the .md file says why')
    key = '' if block.by_gaps else f'{block.first.key}, '
    return '\n'.join([f'{captions.title(block)}  ({key}{captions.size(block)})', grid, *notes])


FORMATS: dict[str, Callable[[Table], str]] = {'md': markdown, 'tex': latex, 'csv': csv}
"""Suffix of a file -> what renders its content."""
