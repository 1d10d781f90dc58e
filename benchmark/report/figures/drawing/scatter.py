"""Cost against score: points with numbers, the Pareto front, and the list of names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.shapes import Point, Scatter

LEFT, RIGHT, FOOT = 0.5, 0.1, 0.36
WIDE = 8
"""How many times the lowest cost the highest is, above which the axis is logarithmic."""

UNITS = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def draw(shape: Scatter, width: float) -> Iterator[Figure]:
    """Yields the pages of a chart of cost against score."""
    across = 2 if width >= 5 and len(shape.panels) > 1 else 1
    room = width / across - LEFT - RIGHT
    numbers = [f'{k + 1} {name}' for k, name in enumerate(shape.names)]
    keys = sheets.fitted(numbers, width - 2 * LEFT)
    space = width - LEFT - RIGHT
    foot = sheets.legend_rows(keys, space, 0.0) * sheets.LINE + 0.1
    count = -(-len(shape.panels) // across)
    fair = (sheets.TALLEST - foot) / count - FOOT - 0.1
    plot = min(max(min(fair, 0.65 * room), 1.2), 2.4)
    cell = plot + FOOT + 0.1
    per_page = across * max(int((sheets.TALLEST - foot) / cell), 1)
    for page in sheets.balanced(shape.panels, per_page):
        rows = -(-len(page) // across)
        figure, sheet = sheets.blank(width, rows * cell + foot)
        for k, (x, y, points) in enumerate(page):
            left = LEFT + (k % across) * width / across
            bottom = foot + (rows - 1 - k // across) * cell + FOOT
            axes = sheets.panel(figure, left, bottom, room, plot)
            _panel(axes, points, (room, plot))
            axes.set_xlabel(sheets.fitted([x], room, sheets.TEXT)[0], labelpad=2)
            axes.set_ylabel('\n'.join(sheets.wrapped(y, plot)))
        _list(sheet, keys, LEFT, foot - 0.08, space)
        yield figure


def _list(sheet: Axes, keys: Sequence[str], left: float, top: float, room: float) -> None:
    """Lists the names in columns."""
    lines = sheets.legend_rows(keys, room, 0.0)
    across = -(-len(keys) // lines)
    for k, key in enumerate(keys):
        x, y = left + (k // lines) * room / across, top - (k % lines + 0.5) * sheets.LINE
        sheet.text(x, y, key, size=sheets.SMALL, va='center')


def told(value: float) -> str:
    """Returns a cost with a unit, for example 1.5M."""
    for size, unit in UNITS:
        if value >= size:
            return f'{value / size:g}{unit}'
    return f'{value:g}'


def _panel(axes: Axes, points: Sequence[Point], size: tuple[float, float]) -> None:
    """Draws the points of one kind of cost."""
    costs, scores = [p.x for p in points], [p.y for p in points]
    if max(costs) > WIDE * min(costs):
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(
            LogLocator(subs=(1, 3) if max(costs) < 99 * min(costs) else (1,))
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        span = math.log(max(costs) / min(costs))
        axes.set_xlim(min(costs) * math.exp(-0.1 * span), max(costs) * math.exp(0.12 * span))
    else:
        span = max(costs) - min(costs) or max(costs)
        axes.set_xlim(min(costs) - 0.1 * span, max(costs) + 0.12 * span)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: told(value)))
    more = 0.12 * (max(scores) - min(scores)) or 1.0
    axes.set_ylim(min(scores) - more, max(scores) + more)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    front = sorted((p for p in points if p.front), key=lambda p: p.x)
    axes.plot([p.x for p in front], [p.y for p in front], color=sheets.COLOURS[0],
              linestyle=(0, (4, 2)), linewidth=0.8)  # fmt: skip
    for p in points:
        face = sheets.COLOURS[0] if p.front else 'white'
        axes.plot([p.x], [p.y], 'o', markersize=4, markerfacecolor=face,
                  markeredgecolor=sheets.COLOURS[0], markeredgewidth=0.7)  # fmt: skip
    _number(axes, points, size)


Box = tuple[float, float, float, float]


def _number(axes: Axes, points: Sequence[Point], size: tuple[float, float]) -> None:
    """Writes each point's number beside it, where it covers no other point and no other number."""
    inverted = axes.transData + axes.transAxes.inverted()
    places = [
        (fx * size[0], fy * size[1]) for fx, fy in (inverted.transform((p.x, p.y)) for p in points)
    ]
    taken: list[Box] = [(x - 0.03, y - 0.03, x + 0.03, y + 0.03) for x, y in places]
    for p, place in zip(points, places, strict=True):
        text = f'{p.number}'
        wide, high = sheets.measure(text, sheets.SMALL) / 2 + 0.01, 0.05
        best = min(
            _candidates(place, wide, high),
            key=lambda c: (_covered(c, taken, size, (wide, high)), math.dist(c, place)),
        )
        x, y = best
        taken.append((x - wide, y - high, x + wide, y + high))
        # The line is short where the number is beside its point.
        axes.annotate(
            text,
            (p.x, p.y),
            xytext=(x / size[0], y / size[1]),
            textcoords='axes fraction',
            fontsize=sheets.SMALL,
            ha='center',
            va='center',
            annotation_clip=False,
            arrowprops={
                'arrowstyle': '-', 'linewidth': 0.4, 'color': sheets.QUIET, 'shrinkA': 1,
                'shrinkB': 1,
            } if math.dist(best, place) > 0.15 else None,
        )  # fmt: skip


def _candidates(
    place: tuple[float, float], wide: float, high: float
) -> Iterator[tuple[float, float]]:
    """Yields where a number may stand: around its point, near ones first."""
    for far in (0.04, 0.1, 0.18, 0.28, 0.4):
        for turn in range(12):
            angle = math.pi * turn / 6
            yield (
                place[0] + (far + wide) * math.cos(angle),
                place[1] + (far + high) * math.sin(angle),
            )


def _covered(
    centre: tuple[float, float],
    taken: Sequence[Box],
    size: tuple[float, float],
    half: tuple[float, float],
) -> float:
    """Returns the area of other things that a number would cover, in square inches."""
    x0, y0, x1, y1 = (
        centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1],
    )  # fmt: skip
    outside = x0 < 0 or y0 < 0 or x1 > size[0] or y1 > size[1]
    area = sum(
        max(min(x1, b[2]) - max(x0, b[0]), 0.0) * max(min(y1, b[3]) - max(y0, b[1]), 0.0)
        for b in taken
    )
    return area + outside
