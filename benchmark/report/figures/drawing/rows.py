"""Charts with one row for each method: ranks, Shapley values, expected scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.shapes import Group, Rows

ROW, APART = 0.17, 0.062
"""Inches of the lowest row, and from one group to the next in a row."""

TICKS = 0.2


def draw(shape: Rows, width: float) -> Iterator[Figure]:
    """Yields the pages of a chart of rows."""
    room = sheets.room_for(shape.rows, width)
    left = sheets.MARGIN + room + 0.08
    space = width - left - 0.1
    names = [group.name for group in shape.groups if len(shape.groups) > 1]
    keys = sheets.fitted(names, space - 0.35)
    top = sheets.MARGIN + (sheets.legend_rows(keys, space) * sheets.LINE + 0.05 if keys else 0.0)
    label = sheets.wrapped(shape.label, space)
    bottom = TICKS + 0.14 * len(label) + 0.05
    height = max(ROW, APART * (len(shape.groups) + 1))
    fit = sheets.fitted(shape.rows, room)
    limits = _limits(shape)
    for part in sheets.balanced(
        range(len(shape.rows)), int((sheets.TALLEST - top - bottom) / height)
    ):
        figure, sheet = sheets.blank(width, top + len(part) * height + bottom)
        axes = sheets.panel(figure, left, bottom, space, len(part) * height)
        for k, group in enumerate(shape.groups):
            aside = (k - (len(shape.groups) - 1) / 2) * APART / height
            _group(axes, group, set(part), aside, k, shape.whole)
        axes.set_xlim(*limits)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        if shape.whole:
            last = int(limits[1])
            axes.set_xticks(range(1, last + 1, -(-last // 8)))
        axes.set_ylim(part[-1] + 0.5, part[0] - 0.5)
        axes.set_yticks(list(part), [fit[r] for r in part])
        axes.tick_params(axis='y', length=0)
        axes.grid(False, axis='y')
        if len(shape.groups) > 1:
            for r in part[1:]:
                axes.axhline(r - 0.5, color=sheets.GRID, linewidth=0.5, zorder=0)
        if shape.zero:
            axes.axvline(0, color='black', linewidth=0.6, zorder=1)
        axes.set_xlabel('\n'.join(label), labelpad=2)
        if keys:
            looks = [{**look(k), 'linestyle': '-'} for k in range(len(keys))]
            high = sheet.get_ylim()[1] - sheets.MARGIN
            sheets.legend(sheet, keys, looks, left, high, space)
        yield figure


def look(k: int) -> dict[str, Any]:
    """Returns how the marks of the k-th group are drawn."""
    return {
        'color': sheets.COLOURS[k % len(sheets.COLOURS)],
        'marker': sheets.MARKERS[k % len(sheets.MARKERS)],
        'markeredgecolor': 'white',
    }


def _limits(shape: Rows) -> tuple[float, float]:
    values = [v for g in shape.groups for m in g.marks for v in (m.low, m.high)]
    values += [v for g in shape.groups for _, v in g.dots]
    values += [0.0] * shape.zero
    low, high = min(values), max(values)
    if shape.whole:
        return low - 0.5, high + 0.5
    more = 0.04 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - more, high + more


def _group(axes: Axes, group: Group, rows: set[int], aside: float, k: int, ends: bool) -> None:
    """Draws the marks of a group in some rows."""
    style = look(k)
    for mark in group.marks:
        if mark.row not in rows:
            continue
        y = mark.row + aside
        if ends:
            axes.plot([mark.low, mark.high], [y, y], linewidth=1.5, **style)
            continue
        axes.plot([mark.low, mark.high], [y, y], color=style['color'], linewidth=0.8)
        if not math.isnan(mark.value):
            axes.plot([mark.value], [y], linestyle='', **style, zorder=3)
    _dots(axes, [dot for dot in group.dots if dot[0] in rows], aside, style)


def _dots(
    axes: Axes, dots: Sequence[tuple[int, float]], aside: float, style: dict[str, Any]
) -> None:
    axes.plot(
        [value for _, value in dots],
        [row + aside for row, _ in dots],
        linestyle='',
        marker=style['marker'],
        markersize=2.2,
        markerfacecolor='none',
        markeredgecolor=style['color'],
        markeredgewidth=0.4,
    )
