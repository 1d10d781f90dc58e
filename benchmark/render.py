"""A table as Markdown, LaTeX, CSV, or text for the terminal."""

from __future__ import annotations

import csv as csv_format
import io
import math
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from tabulate import tabulate

Mark = Literal['', 'best', 'second']


@dataclass(frozen=True)
class Cell:
    """A mean over seeds and its standard deviation, in percent; NaN prints as nothing."""

    mean: float
    std: float = math.nan
    mark: Mark = ''


@dataclass(frozen=True)
class Row:
    """One line of a block.

    Attributes:
        label: Name of the method variant or of the reference.
        kind: 'method', 'reference' (chance, ceiling) or 'published'.
        cells: One per column of the block.
        sign: Footnote sign after the label.
        extra: Further columns of the Markdown table: title -> text.
        seeds: Number of seeds.
    """

    label: str
    kind: Literal['method', 'reference', 'published']
    cells: list[Cell]
    sign: str = ''
    extra: dict[str, str] = field(default_factory=dict)
    seeds: int = 0


@dataclass(frozen=True)
class Block:
    """Rows of one protocol, which alone may be compared.

    Attributes:
        protocol: Its id.
        title: Dataset, metric and direction.
        caption: Sentences on how the numbers came about.
        size: Seeds and test samples, in a few words.
        columns: Column id -> title; ids are subsets, then 'mean', 'worst', 'missing_0', ...
        subsets: How many of the columns are subsets.
        rows: Methods, then references, then published rows.
        notes: Footnotes on the rows of this project.
        sources: Where the published rows come from and why they may not be compared.
        data: Fingerprint of the data, where the same protocol was run on several.
    """

    protocol: str
    title: str
    caption: list[str]
    size: str
    columns: dict[str, str]
    subsets: int
    rows: list[Row]
    notes: list[str]
    sources: list[str]
    data: str = ''

    @property
    def key(self) -> str:
        """The protocol's id, with the fingerprint of the data where that is needed."""
        return f'{self.protocol}@{self.data}' if self.data else self.protocol


@dataclass(frozen=True)
class Table:
    """All blocks of a dataset, and one line per file or run that is not counted."""

    dataset: str
    blocks: list[Block]
    problems: list[str]


def markdown(table: Table) -> str:
    """Returns the table as Markdown, with cost columns."""
    style = {'best': '**{}**', 'second': '<u>{}</u>', '': '{}'}
    parts = [f'# {table.dataset}']
    for block in table.blocks:
        extra = list(dict.fromkeys(title for row in block.rows for title in row.extra))
        lines = [
            [
                row.label + row.sign,
                *_texts(row, style, ' ± '),
                *(row.extra.get(t, '') for t in extra),
            ]
            for row in block.rows
        ]
        header = ['method', *block.columns.values(), *extra]
        grid = [[_escape_pipes(text) for text in line] for line in [header, *lines]]
        rule = ['---', *['---:'] * (len(header) - 1)]
        body = '\n'.join(f'| {" | ".join(line)} |' for line in [grid[0], rule, *grid[1:]])
        parts += [f'## {block.title}', ' '.join(block.caption), body]
        parts += ['\n'.join(f'- {note}' for note in [*block.notes, *block.sources])]
    if table.problems:
        parts += ['## Not counted', '\n'.join(f'- {line}' for line in table.problems)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _escape_pipes(text: str) -> str:
    return text.replace('|', r'\|')


def latex(table: Table) -> str:
    """Returns one booktabs table per block."""
    style = {'best': r'\textbf{{{}}}', 'second': r'\underline{{{}}}', '': '{}'}
    parts = [r'% \usepackage{booktabs}']
    for block in table.blocks:
        header = ['method', *block.columns.values()]
        lines = [' & '.join(_tex(title) for title in header) + r' \\', r'\midrule']
        previous = block.rows[0].kind if block.rows else ''
        for row in block.rows:
            if row.kind != previous:
                lines.append(r'\midrule')
            previous = row.kind
            cells = _texts(row, style, r'\,$\pm$\,')
            lines.append(' & '.join([_tex(row.label + row.sign), *cells]) + r' \\')
        caption = _tex(' '.join([f'{block.title}.', *block.caption]))
        notes = [rf'\par {_tex(note)}.' for note in [*block.notes, *block.sources]]
        body = [
            r'\begin{table}',
            r'\centering',
            r'\small',
            rf'\caption{{{caption}}}',
            rf'\begin{{tabular}}{{l{"r" * len(block.columns)}}}',
            r'\toprule',
            *lines,
            r'\bottomrule',
            r'\end{tabular}',
            *([r'\par\smallskip\raggedright\footnotesize', *notes] if notes else []),
            r'\end{table}',
        ]
        parts.append('\n'.join(body))
    return '\n\n'.join(parts) + '\n'


_TEX = {
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
    return ''.join(_TEX.get(character, character) for character in text)


def csv(table: Table) -> str:
    """Returns one line per method variant and protocol: plain numbers in percent."""
    ids = list(dict.fromkeys(key for block in table.blocks for key in block.columns))
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator='\n')
    writer.writerow(['method', 'protocol', 'seeds', *ids, *(f'{key}_std' for key in ids)])
    for block in table.blocks:
        for row in block.rows:
            if row.kind != 'method':
                continue
            cells = dict(zip(block.columns, row.cells, strict=True))
            means = [_plain(cells[k].mean) if k in cells else '' for k in ids]
            spreads = [_plain(cells[k].std) if k in cells else '' for k in ids]
            writer.writerow([row.label, block.key, row.seeds, *means, *spreads])
    return out.getvalue()


def _plain(value: float) -> str:
    return '' if math.isnan(value) else f'{value:.6g}'


def terminal(
    table: Table, protocols: Collection[str] | None = None, color: bool | None = None
) -> str:
    """Returns the table as text: subsets, mean and worst, without deviations.

    Args:
        table: The table.
        protocols: Only the blocks of these protocol ids.
        color: Mark by bold and underline instead of by signs; by default where stdout is a
            terminal.
    """
    if sys.stdout.isatty() if color is None else color:
        style = {'best': '\033[1m{}\033[0m', 'second': '\033[4m{}\033[0m', '': '{}'}
        legend: list[str] = []
    else:
        style = {'best': '*{}', 'second': '_{}', '': '{}'}
        legend = ['* best and _ second, where marked']
    parts = []
    for block in table.blocks:
        if protocols is not None and block.protocol not in protocols:
            continue
        shown = block.subsets + 2
        lines = [[row.label + row.sign, *_texts(row, style, None)[:shown]] for row in block.rows]
        header = ['method', *list(block.columns.values())[:shown]]
        align = ['left', *['right'] * shown]
        grid = tabulate(lines, header, 'simple', colalign=align, disable_numparse=True)
        marked = any(cell.mark for row in block.rows for cell in row.cells)
        notes = [*(legend if marked else []), *block.notes]
        if any(row.sign == '‡' for row in block.rows):
            notes.append('‡ not comparable; the .md file says why')
        parts.append('\n'.join([f'{block.title}  ({block.key}, {block.size})', grid, *notes]))
    return '\n\n'.join(parts)


def _texts(row: Row, style: dict[str, str], between: str | None) -> list[str]:
    """Returns the cells as text, with the deviation after `between` unless that is None."""
    texts = []
    for cell in row.cells:
        text = '' if math.isnan(cell.mean) else style[cell.mark].format(f'{cell.mean:.2f}')
        if text and between is not None and not math.isnan(cell.std):
            text += f'{between}{cell.std:.2f}'
        texts.append(text)
    return texts


FORMATS: dict[str, Callable[[Table], str]] = {'md': markdown, 'tex': latex, 'csv': csv}
"""Suffix of the file -> how to write it."""
