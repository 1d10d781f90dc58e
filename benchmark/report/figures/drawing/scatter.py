"""Cost against score: points with numbers, the Pareto front, and the list of names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmark.report.figures.drawing import sheets
from benchmark.report.figures.shapes import Point, Scatter

LEFT, RIGHT, FOOT = 0.56, 0.17, 0.36
MOST = 10
"""Names that are listed one beneath the other."""

WIDE = 8
"""How many times the lowest cost the highest is, above which the axis is logarithmic."""

KEY = 'filled: on the Pareto front; triangle: worse than the axis shows, with its score'

UNITS = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def draw(shape: Scatter, width: float) -> Iterator[Figure]:
    """Yields the pages of a chart of cost against score."""
    across = 2 if width >= 5 and len(shape.panels) > 1 else 1
    room = width / across - LEFT - RIGHT
    numbers = [f'{k + 1} {name}' for k, name in enumerate(shape.names)]
    space = width - LEFT - RIGHT
    # A long list stands in two columns at least.
    keys = sheets.fitted(numbers, space / (1 if len(numbers) <= MOST else 2) - 0.13)
    far = any(poor(points, shape.higher) for _, _, points in shape.panels)
    told = sheets.wrapped(KEY if far else KEY.partition(';')[0], space)
    foot = (sheets.legend_rows(keys, space, 0.0) + len(told)) * sheets.LINE + 0.13
    count = -(-len(shape.panels) // across)
    fair = (sheets.TALLEST - foot) / count - FOOT - 0.1
    plot = min(max(min(fair, 0.7 * room), 1.2), 2.4)
    cell = plot + FOOT + 0.1
    per_page = across * max(int((sheets.TALLEST - foot) / cell), 1)
    for page in sheets.balanced(shape.panels, per_page):
        rows = -(-len(page) // across)
        figure, sheet = sheets.blank(width, rows * cell + foot)
        for k, (x, y, points) in enumerate(page):
            left = LEFT + (k % across) * width / across
            bottom = foot + (rows - 1 - k // across) * cell + FOOT
            axes = sheets.panel(figure, left, bottom, room, plot)
            _panel(axes, points, shape, (room, plot))
            axes.set_xlabel(sheets.fitted([x], room, sheets.TEXT)[0], labelpad=2)
            axes.set_ylabel('\n'.join(sheets.wrapped(y, plot)))
        for k, line in enumerate(told):
            height = foot - 0.08 - (k + 0.5) * sheets.LINE
            sheet.text(LEFT, height, line, size=sheets.SMALL, va='center')
        _list(sheet, keys, LEFT, foot - 0.11 - len(told) * sheets.LINE, space)
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


def poor(points: Sequence[Point], higher: bool) -> set[int]:
    """Returns the numbers of those so poor that the others could not be told apart beside them.

    They are at most a fifth of the points and not on the Pareto front; leaving out each of them
    halves the range of the scores.
    """
    ranked = sorted(points, key=lambda p: p.y, reverse=higher)
    found: set[int] = set()
    for _ in range(len(points) // 5):
        *others, last = ranked
        whole, left = (abs(some[-1].y - some[0].y) for some in (ranked, others))
        if last.front or 2 * left > whole:
            break
        found.add(last.number)
        ranked = others
    return found


def _panel(axes: Axes, points: Sequence[Point], shape: Scatter, size: tuple[float, float]) -> None:
    """Draws the points of one kind of cost."""
    higher, digits = shape.higher, shape.digits
    far = poor(points, higher)
    _cost_axis(axes, [p.x for p in points])
    scores = [p.y for p in points if p.number not in far]
    more = 0.12 * (max(scores) - min(scores)) or 1.0
    low, high = min(scores) - more, max(scores) + more
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    front = sorted((p for p in points if p.front), key=lambda p: p.x)
    colour, dashed = sheets.COLOURS[0], (0, (4, 2))
    axes.plot([p.x for p in front], [p.y for p in front], color=colour, linestyle=dashed,
              linewidth=0.8)  # fmt: skip
    shown = []
    for p in points:
        y, marker = p.y, 'o'
        if p.number in far:
            y, marker = (low + more / 3, 'v') if higher else (high - more / 3, '^')
        axes.plot([p.x], [y], marker, markersize=4, markerfacecolor=colour if p.front else 'white',
                  markeredgecolor=colour, markeredgewidth=0.7)  # fmt: skip
        told = f'{p.number} ({p.y:.{digits}f})' if p.number in far else f'{p.number}'
        shown.append((told, p.x, y))
    _number(axes, shown, size)


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """Sets the x-axis, which is logarithmic where the costs differ much."""
    low, high = min(costs), max(costs)
    if high > WIDE * low:
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 99 * low else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        room = (high / low) ** 0.1
        axes.set_xlim(low / room, high * room)
    else:
        room = 0.1 * (high - low or high)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: told(value)))


Box = tuple[float, float, float, float]


def _number(
    axes: Axes, points: Sequence[tuple[str, float, float]], size: tuple[float, float]
) -> None:
    """Writes each point's text beside it, where it covers no other point and no other text.

    Args:
        axes: Where.
        points: Text and place of each point.
        size: Width and height of the axes in inches.
    """
    inverted = axes.transData + axes.transAxes.inverted()
    shares = [inverted.transform((x, y)) for _, x, y in points]
    places = [(x * size[0], y * size[1]) for x, y in shares]
    taken: list[Box] = [(x - 0.03, y - 0.03, x + 0.03, y + 0.03) for x, y in places]
    for (text, x, y), place in zip(points, places, strict=True):
        wide, high = sheets.measure(text) / 2 + 0.01, 0.05
        best = min(
            _candidates(place, wide, high),
            key=lambda c: (_covered(c, taken, size, (wide, high)), math.dist(c, place)),
        )
        taken.append((best[0] - wide, best[1] - high, best[0] + wide, best[1] + high))
        line = {'arrowstyle': '-', 'linewidth': 0.4, 'color': sheets.QUIET, 'shrinkA': 1,
                'shrinkB': 1}  # fmt: skip
        axes.annotate(
            text,
            (x, y),
            xytext=(best[0] / size[0], best[1] / size[1]),
            textcoords='axes fraction',
            fontsize=sheets.SMALL,
            ha='center',
            va='center',
            annotation_clip=False,
            # Beside its point a number needs no line.
            arrowprops=line if math.dist(best, place) > max(wide, high) + 0.05 else None,
        )


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
