"""Heatmaps: cells with numbers where they fit, circles for the modalities of a subset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.shapes import Colouring, Column, Heat, Value

DASH = '–'
"""What stands in a cell without a number."""

ROW = 0.17
CIRCLES = 0.13
LEAST = 0.1
"""Inches of the narrowest column."""

EVEN = 0.179
"""Luminance on which black and white texts have one contrast."""

GAP = 0.4
"""Columns between subsets and summaries."""


LINE_HEAD, BAR = 0.145, 0.32
"""Inches of a line of the title, and of the bar of the colours beneath it."""


class Scale(NamedTuple):
    """From numbers to colours.

    Attributes:
        colours: The map of colours.
        low, high: The numbers at its ends.
        turned: Whether low numbers have the colours of the end.
        below, above: Whether there are numbers beyond the ends.
    """

    colours: Colormap
    low: float
    high: float
    turned: bool
    below: bool = False
    above: bool = False

    def share(self, value: float) -> float:
        """Returns the place of a number on the map, from 0 to 1."""
        place = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.0
        place = min(max(place, 0.0), 1.0)
        return 1 - place if self.turned else place


def scale_of(values: Sequence[Sequence[Value]], colouring: Colouring) -> Scale:
    """Returns the scale of the page: without the 5 % of the cells at either end."""
    known = sorted(v for row in values for v in row if v is not None)
    if not known:
        return Scale(sheets.ONE_WAY, 0.0, 1.0, False)
    low = known[math.floor(0.05 * (len(known) - 1))]
    high = known[math.ceil(0.95 * (len(known) - 1))]
    if colouring in ('signed', 'against'):
        high = max(abs(low), abs(high))
        low = -high
    colours = sheets.TWO_WAYS if colouring in ('signed', 'against') else sheets.ONE_WAY
    turned = colouring in ('low', 'against')
    return Scale(colours, low, high, turned, known[0] < low, known[-1] > high)


def texts_of(
    values: Sequence[Sequence[Value]], room: float, signed: bool, most: int = 2
) -> list[list[str]] | None:
    """Returns the numbers with as many digits as fit into `room` inches; None if none fit."""
    for digits in range(most, 0, -1):
        found = [[_text(v, digits, signed) for v in row] for row in values]
        if max((sheets.measure(text) for row in found for text in row), default=0.0) + 0.05 <= room:
            return found
    return None


def _text(value: Value, digits: int, signed: bool) -> str:
    """Returns a number with a true minus, a plus where signs matter, and no sign of zero."""
    if value is None:
        return DASH
    text = f'{round(value, digits) + 0.0:.{digits}f}'.replace('-', '−')
    return f'+{text}' if signed and round(value, digits) > 0 else text


def draw(heat: Heat, width: float) -> Iterator[Figure]:
    """Yields the pages of a heatmap."""
    circled = [c for c in heat.columns if c.members is not None]
    names = [*heat.rows, *(heat.modalities if circled else ())]
    room = sheets.room_for(names, width)
    left = sheets.MARGIN + room + 0.06
    space = width - left - sheets.MARGIN
    gap = GAP if 0 < len(circled) < len(heat.columns) else 0.0
    blocks = sheets.balanced(range(len(heat.columns)), int(space / LEAST - gap))
    cell = space / (max(map(len, blocks)) + gap)
    scale = scale_of(heat.values, heat.colouring)
    texts = texts_of(heat.values, cell, heat.colouring in ('signed', 'against'), heat.digits)
    label = heat.label
    if texts is None and heat.colouring in ('signed', 'against'):
        label = label.replace('is orange', 'is orange and hatched')
    if any(value is None for row in heat.values for value in row):
        label = f'{label}; {DASH} is {heat.empty}'
    head = sheets.wrapped(label, width - 2 * sheets.MARGIN)
    top = sheets.MARGIN + len(head) * LINE_HEAD + BAR
    foot = sheets.MARGIN + _foot(heat, cell)
    for part in sheets.balanced(range(len(heat.rows)), int((sheets.TALLEST - top - foot) / ROW)):
        high = len(part) * ROW + foot
        for stacked in sheets.balanced(blocks, int((sheets.TALLEST - top) / high)):
            figure, sheet = sheets.blank(width, top + len(stacked) * high)
            bar(sheet, head, scale, left, space)
            for n, block in enumerate(stacked):
                bottom = (len(stacked) - 1 - n) * high + foot
                _cells(sheet, heat, scale, texts, part, block, (left, bottom, cell))
                _names(sheet, heat, part, room, bottom)
                columns = [heat.columns[k] for k in block]
                _columns(sheet, heat, columns, (left, bottom, cell), room)
            yield figure


def _foot(heat: Heat, cell: float) -> float:
    """Returns the inches beneath the cells."""
    widths = [sheets.measure(c.title) for c in heat.columns if c.members is None]
    titles = [sheets.LINE if wide <= cell else wide for wide in widths]
    circles = len(heat.modalities) * CIRCLES if len(titles) < len(heat.columns) else 0.0
    return max([circles, *titles]) + 0.06


def bar(sheet: Axes, head: Sequence[str], scale: Scale | None, left: float, space: float) -> None:
    """Draws the title at the top, and beneath it the bar of a scale, if there is one."""
    top = sheet.get_ylim()[1] - sheets.MARGIN
    over = max(sheets.measure(line, sheets.TEXT) for line in head) > space
    for k, line in enumerate(head):
        x = sheets.MARGIN if over else left
        sheet.text(x, top - (k + 0.5) * LINE_HEAD, line, va='center')
    if scale is None:
        return
    y, length = top - len(head) * LINE_HEAD - 0.1, min(space, 2.0)
    limits = sheet.get_xlim(), sheet.get_ylim()
    step = [[k / 99 for k in range(100)]]
    sheet.imshow(
        [[1 - v for v in step[0]]] if scale.turned else step,
        cmap=scale.colours,
        vmin=0,
        vmax=1,
        extent=(left, left + length, y, y + 0.08),
        aspect='auto',
        interpolation='nearest',
    )
    sheet.set(xlim=limits[0], ylim=limits[1])
    middle = (scale.low + scale.high) / 2
    ends = ['≤ ' * scale.below + _short(scale.low), '≥ ' * scale.above + _short(scale.high)]
    for x, text, place in (
        (left, ends[0], 'left'),
        (left + length / 2, _short(middle), 'center'),
        (left + length, ends[1], 'right'),
    ):
        sheet.text(x, y - 0.08, text, size=sheets.SMALL, ha=place, va='center')


def _short(value: float) -> str:
    """Returns a number with about three digits, and no negative zero."""
    return _text(value, 1 if abs(value) < 100 else 0, False)


def _places(columns: Sequence[Column], left: float, cell: float) -> list[float]:
    """Returns the left edge of each column: summaries stand apart from subsets."""
    apart = [GAP if columns[0].members is not None and c.members is None else 0.0 for c in columns]
    return [left + (k + gap) * cell for k, gap in enumerate(apart)]


def _cells(
    sheet: Axes,
    heat: Heat,
    scale: Scale,
    texts: Sequence[Sequence[str]] | None,
    rows: Sequence[int],
    block: Sequence[int],
    place: tuple[float, float, float],
) -> None:
    left, bottom, cell = place
    edges = _places([heat.columns[k] for k in block], left, cell)
    cells = []
    for line, r in enumerate(rows):
        y = bottom + (len(rows) - 1 - line) * ROW
        for k, x in zip(block, edges, strict=True):
            value = heat.values[r][k]
            text = DASH if value is None else '' if texts is None else texts[r][k]
            cells.append(Cell(x, y, value, text))
    boxes(sheet, cells, (cell, ROW), scale, texts is None)


def luminance(colour: Sequence[float]) -> float:
    """Returns the relative luminance of a colour of red, green and blue from 0 to 1 (WCAG 2)."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


class Cell(NamedTuple):
    """A cell: its lower left corner in inches, its number, and what stands in it."""

    x: float
    y: float
    value: Value
    text: str


def boxes(
    sheet: Axes, cells: Sequence[Cell], size: tuple[float, float], scale: Scale, hatched: bool
) -> None:
    """Draws cells.

    Args:
        sheet: Where.
        cells: The cells; those without a number are white.
        size: Width and height of a cell in inches.
        scale: The colours.
        hatched: Whether cells that are worse than the baseline are hatched.
    """
    wide, high = size
    corners = [(0, 0), (wide, 0), (wide, high), (0, high)]
    shapes = [[(c.x + dx, c.y + dy) for dx, dy in corners] for c in cells]
    white = (1.0, 1.0, 1.0)
    colours = [white if c.value is None else scale.colours(scale.share(c.value))[:3] for c in cells]
    edge = 0.5 if wide > 0.12 else 0.25
    sheet.add_collection(
        PolyCollection(shapes, facecolors=colours, edgecolors='white', linewidths=edge)
    )
    worse = [
        shape
        for c, shape in zip(cells, shapes, strict=True)
        if c.value is not None and scale.low == -scale.high and scale.share(c.value) < 0.5
    ]
    if hatched and worse:
        sheet.add_collection(
            PolyCollection(
                worse, facecolors='none', edgecolors=sheets.QUIET, linewidths=0, hatch='////'
            )
        )
    for c, colour in zip(cells, colours, strict=True):
        if c.text:
            ink = 'black' if luminance(colour) > EVEN else 'white'
            # The middle of digits is a little above that of a line of text.
            at = c.x + wide / 2, c.y + high / 2 - 0.005
            sheet.text(*at, c.text, size=sheets.SMALL, color=ink, ha='center', va='center')


def _names(sheet: Axes, heat: Heat, rows: Sequence[int], room: float, bottom: float) -> None:
    fit = sheets.fitted(heat.rows, room)
    for line, r in enumerate(rows):
        y = bottom + (len(rows) - 0.5 - line) * ROW
        sheet.text(sheets.MARGIN + room, y, fit[r], size=sheets.SMALL, ha='right', va='center')


def _columns(
    sheet: Axes,
    heat: Heat,
    columns: Sequence[Column],
    place: tuple[float, float, float],
    room: float,
) -> None:
    """Draws what is beneath the cells: circles, and titles from below."""
    left, bottom, cell = place
    edges, size = _places(columns, left, cell), min(0.085, 0.8 * cell)
    members = [(x, c.members) for x, c in zip(edges, columns, strict=True) if c.members is not None]
    fit = sheets.fitted(heat.modalities, room) if members else []
    rows = [bottom - 0.05 - (m + 0.5) * CIRCLES for m in range(len(fit))]
    for y, name in zip(rows, fit, strict=True):
        sheet.text(sheets.MARGIN + room, y, name, size=sheets.SMALL, ha='right', va='center')
    for filled, face, line in ((False, 'white', '#aaaaaa'), (True, '#222222', '#222222')):
        at = [
            (x + cell / 2, y)
            for m, y in enumerate(rows)
            for x, there in members
            if (m in there) == filled
        ]
        sheet.plot([x for x, _ in at], [y for _, y in at], 'o', markersize=72 * size,
                   markerfacecolor=face, markeredgecolor=line, markeredgewidth=0.5)  # fmt: skip
    for x, column in zip(edges, columns, strict=True):
        if column.members is None:
            wide = sheets.measure(column.title) <= cell
            sheet.text(x + cell / 2, bottom - 0.05, column.title, size=sheets.SMALL, ha='center',
                       va='top', rotation=0 if wide else 90)  # fmt: skip
