"""A table as Markdown, LaTeX, CSV, or text for the terminal."""

from __future__ import annotations

import csv as csv_format
import io
import math
import sys
from collections.abc import Callable, Collection, Sequence

from tabulate import tabulate

from benchmark.report.layout import Block, Row, Table


def markdown(table: Table) -> str:
    """Returns the table as Markdown, with what the methods cost."""
    parts = [f'# {table.dataset}']
    for block in table.blocks:
        parts += [f'## {block.title}', ' '.join(block.caption), _pipes(*_wide(block))]
        footnotes = [*block.notes, *block.failures, *block.sources]
        parts += ['\n'.join(f'- {note}' for note in footnotes)]
        if block.cost:
            parts += [f'### {block.cost.title}', ' '.join(block.cost.caption)]
            parts += [_pipes(block.cost.header, block.cost.rows, 1)]
    if table.problems:
        parts += ['## Not counted', '\n'.join(f'- {line}' for line in table.problems)]
    return '\n\n'.join(filter(None, parts)) + '\n'


def _wide(block: Block) -> tuple[list[str], list[list[str]], int]:
    """Returns header, lines and number of text columns of a block with its further columns."""
    style = {'best': '**{}**', 'second': '<u>{}</u>', '': '{}'}
    extra = list(dict.fromkeys(title for row in block.rows for title in row.extra))
    lines = [
        [*_stub(block, row), *_texts(row, style, ' ± '), *(row.extra.get(t, '') for t in extra)]
        for row in block.rows
    ]
    return [*_stub_titles(block), *block.columns.values(), *extra], lines, len(_stub_titles(block))


def _pipes(header: list[str], lines: Sequence[list[str]], left: int) -> str:
    """Returns a Markdown table whose first `left` columns are text."""
    grid = [[text.replace('|', r'\|') for text in line] for line in [header, *lines]]
    rule = [*['---'] * left, *['---:'] * (len(header) - left)]
    return '\n'.join(f'| {" | ".join(line)} |' for line in [grid[0], rule, *grid[1:]])


def _stub_titles(block: Block) -> list[str]:
    return [block.lead, 'method'] if block.lead else ['method']


def _stub(block: Block, row: Row) -> list[str]:
    """Returns what stands before a row's numbers."""
    label = row.label + row.sign
    return [row.lead, label] if block.lead else [label]


def latex(table: Table) -> str:
    """Returns one booktabs table per block, and one of what its methods cost."""
    parts = [r'% \usepackage{booktabs}']
    for block in table.blocks:
        parts.append(_tex_block(block))
        if block.cost:
            caption = [f'{block.cost.title}.', *block.cost.caption]
            rows = [[_tex(text) for text in line] for line in block.cost.rows]
            parts.append(_tex_table(caption, block.cost.header, 1, _tex_lines(rows)))
    return '\n\n'.join(parts) + '\n'


def _tex_block(block: Block) -> str:
    style = {'best': r'\textbf{{{}}}', 'second': r'\underline{{{}}}', '': '{}'}
    lines: list[str] = []
    for before, row in zip([None, *block.rows], block.rows, strict=False):
        if before and (before.kind, before.lead) != (row.kind, row.lead):
            lines.append(r'\midrule')
        stub = [_tex(text) for text in _stub(block, row)]
        lines += _tex_lines([[*stub, *_texts(row, style, r'\,$\pm$\,')]])
    stub = _stub_titles(block)
    caption = [f'{block.title}.', *block.caption]
    notes = [*block.notes, *block.failures, *block.sources]
    return _tex_table(caption, [*stub, *block.columns.values()], len(stub), lines, notes)


def _tex_lines(rows: Sequence[list[str]]) -> list[str]:
    return [' & '.join(cells) + r' \\' for cells in rows]


def _tex_table(
    caption: list[str], header: list[str], left: int, lines: list[str], notes: Sequence[str] = ()
) -> str:
    """Returns a floating table; `left` columns of text, `lines` as LaTeX, the rest as text."""
    body = [
        r'\begin{table}',
        r'\centering',
        r'\small',
        rf'\caption{{{_tex(" ".join(caption))}}}',
        rf'\begin{{tabular}}{{{"l" * left}{"r" * (len(header) - left)}}}',
        r'\toprule',
        *_tex_lines([[_tex(title) for title in header]]),
        r'\midrule',
        *lines,
        r'\bottomrule',
        r'\end{tabular}',
        *([r'\par\smallskip\raggedright\footnotesize'] if notes else []),
        *(rf'\par {_tex(note)}.' for note in notes),
        r'\end{table}',
    ]
    return '\n'.join(body)


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
    """Returns one line per method variant and protocol: plain numbers, scores in percent."""
    ids = list(dict.fromkeys(key for block in table.blocks for key in block.columns))
    rows = [(block, row) for block in table.blocks for row in block.rows if row.kind == 'method']
    facts = list(dict.fromkeys(name for _, row in rows for name in row.facts))
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator='\n')
    writer.writerow(['method', 'protocol', 'seeds', *ids, *(f'{key}_std' for key in ids), *facts])
    for block, row in rows:
        cells = dict(zip(block.columns, row.cells, strict=True))
        means = [_plain(cells[k].mean) if k in cells else '' for k in ids]
        spreads = [_plain(cells[k].std) if k in cells else '' for k in ids]
        told = [_plain(row.facts.get(name, '')) for name in facts]
        protocol = row.protocol or block.key
        writer.writerow([row.label, protocol, row.seeds, *means, *spreads, *told])
    return out.getvalue()


def _plain(value: float | str) -> str:
    """Returns a number for the CSV file; whole ones with all their digits."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value)
    return '' if math.isnan(value) else f'{value:.6g}'


WIDE = 7
"""Most subsets that the terminal's table shows one by one."""


def terminal(
    table: Table, protocols: Collection[str] | None = None, color: bool | None = None
) -> str:
    """Returns the table as text: subsets, mean and worst, without deviations.

    Of more than 7 subsets, what a terminal cannot hold, the means by number of missing modalities
    stand in their place.

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
        if protocols is not None and not block.protocols & set(protocols):
            continue
        stub, titles = _stub_titles(block), list(block.columns.values())
        wide = block.subsets > WIDE
        shown = range(block.subsets, len(titles)) if wide else range(block.subsets + 2)
        texts = [_texts(row, style, None) for row in block.rows]
        lines = [
            [*_stub(block, row), *(cells[c] for c in shown)]
            for row, cells in zip(block.rows, texts, strict=True)
        ]
        header = [*stub, *(titles[c] for c in shown)]
        align = [*['left'] * len(stub), *['right'] * len(shown)]
        grid = tabulate(lines, header, 'simple', colalign=align, disable_numparse=True)
        marked = any(cell.mark for row in block.rows for cell in row.cells)
        notes = [*(legend if marked else []), *block.notes, *block.failures]
        if wide:
            notes.append(f'{block.subsets} subsets; the .md file has each')
        if any(row.sign == '‡' for row in block.rows):
            notes.append('‡ not comparable; the .md file says why')
        told = ', '.join(filter(None, [block.key, block.size]))
        parts.append('\n'.join([f'{block.title}  ({told})', grid, *notes]))
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
