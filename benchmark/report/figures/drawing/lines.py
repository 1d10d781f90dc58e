"""Charts of lines, a panel for every six methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.shapes import Lines, Series

MOST = 6
"""Lines in a panel: more cannot be told apart in grey."""

LEFT, RIGHT, FOOT, HEAD = 0.58, 0.12, 0.36, 0.17
OTHER = 2
"""How many times the range of the first panel is that of a panel with a scale of its own."""

SIDE_BY_SIDE = 0.05
"""Distance of the dots of two series at one whole number of the x-axis."""


def draw(lines: Lines, width: float) -> Iterator[Figure]:
    """Yields the pages of a chart of lines."""
    chunks = sheets.balanced(range(len(lines.series)), MOST)
    across = 2 if width >= 5 and len(chunks) > 1 else 1
    room = width / across - LEFT - RIGHT
    plot = min(max(0.6 * room, 1.4), 2.4)
    names = sheets.fitted([each.name for each in lines.series], room - 0.35)
    keys = max(sheets.legend_rows([names[n] for n in chunk], room) for chunk in chunks)
    title = HEAD if len(chunks) > 1 else sheets.MARGIN
    x_title = sheets.wrapped(lines.x, room)
    foot = FOOT + 0.14 * (len(x_title) - 1)
    cell = title + plot + foot + keys * sheets.LINE + 0.12
    limits = dict(zip((chunk[0] for chunk in chunks), _limits(lines, chunks), strict=True))
    per_page = across * max(int(sheets.TALLEST / cell), 1)
    for page in sheets.balanced(chunks, per_page):
        count = -(-len(page) // across)
        figure, sheet = sheets.blank(width, count * cell)
        for k, chunk in enumerate(page):
            left = LEFT + (k % across) * width / across
            top = (count - k // across) * cell - title
            axes = sheets.panel(figure, left, top - plot, room, plot)
            _panel(axes, lines, [lines.series[n] for n in chunk])
            own = limits[chunk[0]]
            axes.set_ylim(*own)
            axes.set_ylabel('\n'.join(sheets.wrapped(lines.y, plot)))
            axes.set_xlabel('\n'.join(x_title), labelpad=2)
            if len(chunks) > 1:
                told = f'methods {chunk[0] + 1} to {chunk[-1] + 1} of {len(lines.series)}'
                told += '; other scale' * (lines.shared and own != limits[0])
                axes.set_title(told, fontsize=sheets.SMALL, pad=3)
            looks = [look(n) for n in range(len(chunk))]
            sheets.legend(sheet, [names[n] for n in chunk], looks, left, top - plot - foot, room)
        yield figure


def look(k: int) -> dict[str, Any]:
    """Returns how the k-th series of a panel is drawn."""
    return {
        'color': sheets.COLOURS[k],
        'linestyle': sheets.DASHES[k],
        'marker': sheets.MARKERS[k],
        'markeredgecolor': 'white',
    }


def _limits(lines: Lines, chunks: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
    """Returns the limits of the y-axis of each panel.

    Panels share one axis but for those of methods that are so different that nothing could be told
    apart in the others.
    """
    ranges = [_range([lines.series[n] for n in chunk]) for chunk in chunks]
    if lines.diagonal:
        return [(_corner(lines), 100.0)] * len(chunks)
    if lines.shared:
        usual = OTHER * (ranges[0][1] - ranges[0][0])
        alike = [r for r in ranges if r[1] - r[0] <= usual or r == ranges[0]]
        common = min(low for low, _ in alike), max(high for _, high in alike)
        ranges = [common if r in alike else r for r in ranges]
    found = []
    for low, high in ranges:
        more = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
        found.append((low - more, high + more))
    return found


def _range(series: Sequence[Series]) -> tuple[float, float]:
    values = [y for each in series for line in each.lines for _, y in line]
    values += [y for each in series for _, y in each.dots]
    values += [y for each in series for _, low, high in each.band for y in (low, high)]
    return min(values), max(values)


def _corner(lines: Lines) -> float:
    """Returns the multiple of ten at which both axes of a chart with a diagonal begin."""
    points = [v for each in lines.series for line in each.lines for xy in line for v in xy]
    return math.floor(min(points) / 10) * 10.0


def _panel(axes: Axes, lines: Lines, series: Sequence[Series]) -> None:
    """Draws the series of one panel."""
    if lines.diagonal:
        corner = _corner(lines)
        dashed = (0, (2, 2))
        axes.plot([corner, 100], [corner, 100], linestyle=dashed, color=sheets.QUIET, linewidth=0.7)
        axes.set_xlim(corner, 100)
    for k, each in enumerate(series):
        style = look(k)
        if each.band:
            x, low, high = zip(*each.band, strict=True)
            axes.fill_between(x, low, high, color=style['color'], alpha=0.15, linewidth=0)
        for line in each.lines:
            axes.plot(
                [x for x, _ in line],
                [y for _, y in line],
                # Many markers hide the line.
                markevery=(k, 5) if len(line) > 12 else None,
                clip_on=not lines.diagonal,
                **{**style, 'linewidth': 1.0 if len(each.lines) == 1 else 0.7},
            )
        # A line that is moved sideways lies above or below its place wherever it rises or falls.
        aside = (k - (len(series) - 1) / 2) * SIDE_BY_SIDE if lines.whole else 0.0
        axes.plot(
            [x + aside for x, _ in each.dots],
            [y for _, y in each.dots],
            linestyle='',
            marker=style['marker'],
            markersize=2.2,
            markerfacecolor='none',
            markeredgecolor=style['color'],
            markeredgewidth=0.4,
        )
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if lines.whole:
        shown = sorted({x for each in series for line in each.lines for x, _ in line})
        axes.set_xticks([int(x) for x in shown])
        axes.set_xlim(math.floor(shown[0]) - 0.3, math.ceil(shown[-1]) + 0.3)
