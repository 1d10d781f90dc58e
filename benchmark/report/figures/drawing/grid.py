"""Charts of lines side by side, a column for each method."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.drawing.lines import MOST, look
from benchmark.report.figures.shapes import Grid, Series

LEFT, RIGHT, GAP = 0.66, 0.08, 0.1
"""Inches left of the first column, right of the last one, and between two."""

NARROWEST, LOW, HIGH = 0.9, 0.85, 1.4
"""Inches of the narrowest column, and of the lowest and the highest row."""

APART, FOOT, HEAD = 0.12, 0.36, 0.17


def draw(grid: Grid, width: float) -> Iterator[Figure]:
    """Yields the pages of a grid: as many columns on each as fit, and at most six series."""
    most = max(int((width - LEFT - RIGHT + GAP) / (NARROWEST + GAP)), 1)
    for names in sheets.balanced(grid.names, MOST):
        for page in sheets.balanced(range(len(grid.columns)), most):
            yield _page(grid, width, names, page)


def _page(grid: Grid, width: float, names: Sequence[str], page: Sequence[int]) -> Figure:
    """Returns one page.

    Args:
        grid: What is shown.
        width: Inches of the page.
        names: The series that are shown.
        page: The columns that are shown.
    """
    space = width - LEFT - RIGHT
    wide = (space + GAP) / len(page) - GAP
    high = min(max(0.8 * wide, LOW), HIGH)
    keys = sheets.fitted(list(names), space - 0.35)
    below = FOOT + sheets.legend_rows(keys, space) * sheets.LINE + 0.06
    titles = sheets.titles([grid.columns[c] for c in page], wide)
    head = HEAD + sheets.LINE * any('\n' in title for title in titles)
    height = head + len(grid.labels) * (high + APART) - APART + below
    figure, sheet = sheets.blank(width, height)
    looks = {name: look(k) for k, name in enumerate(names)}
    for r, label in enumerate(grid.labels):
        limits = _limits([each for chart in grid.charts[r] for each in chart])
        bottom = height - head - r * (high + APART) - high
        last = r == len(grid.labels) - 1
        for k, column in enumerate(page):
            axes = sheets.panel(figure, LEFT + k * (wide + GAP), bottom, wide, high)
            for each in grid.charts[r][column]:
                if each.name in looks:
                    _lines(axes, each, looks[each.name])
            axes.set_ylim(*limits)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            if not r:
                axes.set_title(titles[k], fontsize=sheets.SMALL, pad=3)
            if k:
                axes.tick_params(axis='y', labelleft=False)
            else:
                axes.set_ylabel('\n'.join(sheets.wrapped(label, high)))
            axes.tick_params(axis='x', labelbottom=last)
    sheet.text(LEFT + space / 2, below - 0.3, grid.x, ha='center', va='center', size=sheets.TEXT)
    sheets.legend(sheet, keys, list(looks.values()), LEFT, below - FOOT, space)
    return figure


def _lines(axes: Axes, series: Series, style: dict) -> None:
    for line in series.lines:
        # A line of two seeds or more is thinner, and many markers hide it.
        wide, every = (1.0 if len(series.lines) == 1 else 0.7), max(len(line) // 4, 1)
        x, y = [x for x, _ in line], [y for _, y in line]
        axes.plot(x, y, markevery=every, **{**style, 'linewidth': wide, 'markersize': 2.8})


def _limits(series: Sequence[Series]) -> tuple[float, float]:
    """Returns the limits of the y-axis that the charts of a row share."""
    values = [y for each in series for line in each.lines for _, y in line]
    low, high = min(values), max(values)
    more = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - more, high + more
