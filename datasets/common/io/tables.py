"""Tables of labels, as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import difflib
import io
from pathlib import Path

from benchmark.errors import UserError
from datasets.common.io.files import text
from datasets.common.io.folders import SUFFIXES
from datasets.common.io.paths import has_file


def stem(sample: str) -> str:
    """Returns the name of a sample without the suffix that its file may have."""
    return sample[: -len(Path(sample).suffix)] if sample.lower().endswith(SUFFIXES) else sample


def read_table(file: Path) -> list[dict[str, str]]:
    """Returns the rows of a table with the columns `sample` and `label`, and others.

    Commas, semicolons or tabulators separate the columns. White space around values, empty rows and
    a mark of the byte order are left out, and so are the suffixes of samples.

    Raises:
        UserError: The table is missing, is no table in UTF-8, lacks a column or a value, names a
            sample twice, or holds characters that cannot be printed.
    """
    columns, *cells = _cells(file)
    if not {'sample', 'label'} <= set(columns) or not cells or len(set(columns)) < len(columns):
        found = 'no row' if not cells else ', '.join(columns)
        raise UserError(f'{file}: expected the columns sample,label; found {found}')
    rows: dict[str, dict[str, str]] = {}
    for row in cells:
        if len(row) != len(columns) or not all(row):
            told = ', '.join(map(repr, row))
            raise UserError(
                f'{file}: expected {len(columns)} values in every row, found {_short(told)}'
            )
        values = dict(zip(columns, row, strict=True))
        sample = stem(values['sample'])
        if sample in rows:
            raise UserError(f'{file}: sample {sample!r} is listed twice')
        rows[sample] = values | {'sample': sample}
    return list(rows.values())


def _renaming(file: Path) -> str:
    """Returns what to rename where another file has almost the name of one that is not there."""
    there = {path.name.lower(): path.name for path in sorted(file.parent.iterdir())}
    near = difflib.get_close_matches(file.name, there, 1, 0.75)
    return f'; rename {there[near[0]]!r} to {file.name!r}' if near else ''


def _cells(file: Path) -> list[list[str]]:
    """Returns the cells of the rows that are not empty, the header first."""
    if not has_file(file):
        expected = f'labels/ with label maps or {file.name}'
        raise UserError(f'{file.parent}: expected {expected}, found neither{_renaming(file)}')
    content = text(file, 'a table')
    header = content.partition('\n')[0]
    # Spreadsheets write semicolons where the comma is the decimal mark.
    mark = max(',;\t', key=header.count)
    reader = csv.reader(io.StringIO(content, newline=''), delimiter=mark, strict=True)
    try:
        found = [[cell.strip() for cell in row] for row in reader if any(row)]
    except csv.Error as error:
        raise UserError(
            f'{file}: expected a table, found in line {reader.line_num}: {error}'
        ) from None
    for cell in (cell for row in found for cell in row):
        if not cell.isprintable():
            raise UserError(f'{file}: expected printable characters, found {_short(ascii(cell))}')
    return found or [[]]


def _short(text: str) -> str:
    return text if len(text) <= 100 else f'{text[:100]}...'
