"""Matrices of classes, one for each subset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmark.report.figures.drawing import heat, sheets
from benchmark.report.figures.shapes import Matrices, Value
from benchmark.report.writer import Lacking

CELL, LEAST = 0.33, 0.11
"""Inches of a cell that holds a number, and of the smallest one."""

TITLE = 0.17
SCALE = heat.Scale(sheets.ONE_WAY, 0.0, 100.0, False)


def draw(shape: Matrices, width: float) -> Iterator[Figure]:
    """Yields the pages of matrices.

    Raises:
        Lacking: One matrix is wider than the figure.
    """
    count = len(shape.names)
    room = sheets.room_for(shape.names, 0.7 * width)
    left = sheets.MARGIN + 0.16 + room + 0.05
    space = width - left - sheets.MARGIN
    cell = min(CELL, space / count)
    if cell < LEAST:
        least = left + sheets.MARGIN + LEAST * count
        raise Lacking(
            f'{count} classes: expected a --width of at least {least:.2f} inches, found {width:.2f}'
        )
    titles = [title for title, _ in shape.panels]
    slot = max(count * cell, min(max(map(sheets.measure, titles)), 1.4)) + 0.12
    across = max(int((space + 0.12) / slot), 1)
    slot = min(slot, space)
    head = sheets.wrapped(shape.label, width - 2 * sheets.MARGIN)
    numbers = cell >= CELL
    top = sheets.MARGIN + len(head) * heat.LINE_HEAD + (0.06 if numbers else heat.BAR)
    high = cell if not numbers else 0.22
    panel = TITLE + count * high + room + 0.1
    rows = max(int((sheets.TALLEST - top - 0.2) / panel), 1)
    fit = sheets.fitted(shape.names, room), sheets.fitted(titles, slot - 0.05)
    for page in sheets.balanced(range(len(titles)), across * rows):
        lines = -(-len(page) // across)
        figure, sheet = sheets.blank(width, top + lines * panel + 0.2)
        height = sheet.get_ylim()[1]
        heat.bar(sheet, head, None if numbers else SCALE, left, space)
        for n, k in enumerate(page):
            corner = left + (n % across) * slot, height - top - (n // across) * panel
            _matrix(sheet, shape.panels[k][1], fit[1][k], corner, (cell, high), numbers)
            _names(sheet, fit[0], corner, (cell, high), n % across == 0)
        middle = 0.2 + lines * panel / 2
        sheet.text(
            sheets.MARGIN + 0.07, middle, 'true class', rotation=90, ha='center', va='center'
        )
        sheet.text(left + space / 2, 0.1, 'predicted class', ha='center', va='center')
        yield figure


def _matrix(
    sheet: Axes,
    values: Sequence[Sequence[Value]],
    title: str,
    corner: tuple[float, float],
    cell: tuple[float, float],
    numbers: bool,
) -> None:
    x, top = corner
    wide, high = cell
    sheet.text(x, top - TITLE / 2, title, size=sheets.SMALL, va='center')
    texts = heat.texts_of(values, wide, False) if numbers else None
    cells = [
        heat.Cell(x + c * wide, top - TITLE - (r + 1) * high, value, texts[r][c] if texts else '')
        for r, row in enumerate(values)
        for c, value in enumerate(row)
    ]
    heat.boxes(sheet, cells, cell, SCALE, False)


def _names(
    sheet: Axes,
    names: Sequence[str],
    corner: tuple[float, float],
    cell: tuple[float, float],
    first: bool,
) -> None:
    """Writes the classes beneath a matrix, and at the left of the first in a line."""
    x, y = corner[0], corner[1] - TITLE
    at: dict[str, Any] = {'size': sheets.SMALL, 'va': 'center'}
    for k, name in enumerate(names):
        bottom = y - len(names) * cell[1] - 0.03
        beneath = {**at, 'va': 'top', 'ha': 'center', 'rotation': 90}
        sheet.text(x + (k + 0.5) * cell[0], bottom, name, **beneath)
        if first:
            sheet.text(x - 0.05, y - (k + 0.5) * cell[1], name, ha='right', **at)
