"""What all figures share: style, measured texts, and a sheet whose coordinates are inches."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

T = TypeVar('T')

FONT = 'DejaVu Sans'
"""The font that matplotlib brings along: figures look the same on every machine."""

TEXT, SMALL = 8.0, 7.0
"""Points of titles, and of names and numbers."""

LINE = 0.135
"""Inches from one line of small text to the next."""

TALLEST = 8.75
"""Inches of the highest figure, which leaves room for a caption on a letter page."""

MARGIN = 0.05

DOTS = 600
"""Dots per inch at which texts are measured."""

COLOURS = ('#0072b2', '#d55e00', '#009e73', '#b0568f', '#000000', '#8a6d00', '#56b4e9', '#7f7f7f')
"""They differ for readers who confuse red and green (after Okabe and Ito, 2008)."""

MARKERS = ('o', 's', '^', 'D', 'v', 'X', 'P', '*')
DASHES: tuple[Any, ...] = ('-', (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 2)), '-.')
"""Together with the markers they tell series apart in grey."""

QUIET, GRID = '#777777', '#dddddd'

ONE_WAY = LinearSegmentedColormap.from_list('one way', ['#f4f8fb', '#8fbcdd', '#0072b2', '#00324f'])
# Light enough for black numbers everywhere.
TWO_WAYS = LinearSegmentedColormap.from_list('two ways', ['#dd6e1f', '#f7f7f7', '#4a97cc'])

# The names of the keys differ between versions of matplotlib, which types them.
STYLE: Any = {
    'font.family': FONT,
    'font.size': TEXT,
    'axes.labelsize': TEXT,
    'xtick.labelsize': SMALL,
    'ytick.labelsize': SMALL,
    'axes.linewidth': 0.6,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': GRID,
    'grid.linewidth': 0.5,
    'xtick.major.width': 0.6,
    'ytick.major.width': 0.6,
    'xtick.major.size': 2.5,
    'ytick.major.size': 2.5,
    'lines.linewidth': 1.0,
    'lines.markersize': 3.5,
    'lines.markeredgewidth': 0.5,
    'hatch.linewidth': 0.4,
    # A name with dollar signs is no formula.
    'text.parse_math': False,
    'savefig.dpi': 300,
    # TrueType fonts are embedded: printers accept them, and texts can be searched and copied.
    'pdf.fonttype': 42,
    # Glyphs are drawn as paths, so that no font is needed where the figure is read.
    'svg.fonttype': 'path',
    'svg.hashsalt': 'figures',
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draws with the style of this module, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


@functools.cache
def measure(text: str, size: float = SMALL) -> float:
    """Returns how many inches wide a text is in points `size`."""
    font = font_manager.get_font(font_manager.findfont(FONT))
    # Letters are rounded to whole dots: these are small enough.
    font.set_size(size, DOTS)
    font.set_text(text, 0.0)
    return float(font.get_width_height()[0] / 64 / DOTS)


def fitted(names: Sequence[str], room: float, size: float = SMALL) -> list[str]:
    """Returns names that are at most `room` inches wide; what is cut out is shown as an ellipsis.

    Names that become equal get numbers.
    """
    cut = [_cut(name, room, size) for name in names]
    found = []
    for k, (name, short) in enumerate(zip(names, cut, strict=True)):
        if short != name and cut.count(short) > 1:
            number = f'…({cut[: k + 1].count(short)})'
            short = _cut(name, room - measure(number, size), size).rstrip('…') + number
        found.append(short)
    return found


def _cut(name: str, room: float, size: float) -> str:
    """Returns the start and the end of a name that is too wide."""
    if measure(name, size) <= room:
        return name

    def short(kept: int) -> str:
        start = kept * 2 // 3
        return f'{name[:start]}…{name[len(name) - (kept - start) :]}'

    widths = range(1, len(name))
    fit = bisect.bisect_right(widths, room, key=lambda kept: measure(short(kept), size))
    return short(fit) if fit else '…'


def wrapped(text: str, room: float, size: float = TEXT) -> list[str]:
    """Returns the lines of a text, broken at spaces; a word that is too wide is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f'{lines[-1]} {word}', size) <= room:
            lines[-1] += f' {word}'
        else:
            lines.append(_cut(word, room, size))
    return lines


def titles(names: Sequence[str], room: float, size: float = SMALL) -> list[str]:
    """Returns names of methods that are at most `room` inches wide, their options in a second line.

    If all names fit into one line, they have one.
    """
    if all(measure(name, size) <= room for name in names):
        return list(names)
    split = [name.partition(':') for name in names]
    first = fitted([f'{name}{colon}' for name, colon, _ in split], room, size)
    second = fitted([options for _, _, options in split], room, size)
    return [f'{top}\n{below}' if below else top for top, below in zip(first, second, strict=True)]


def room_for(names: Sequence[str], width: float) -> float:
    """Returns the inches for names at the left of a figure, where other things need room, too."""
    return min(max(map(measure, names), default=0.0), 0.38 * width)


def balanced(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Returns the items in as few parts of at most `most` as possible, of nearly equal sizes."""
    parts = max(-(-len(items) // max(most, 1)), 1)
    size, more = divmod(len(items), parts)
    starts = [k * size + min(k, more) for k in range(parts + 1)]
    return [items[a:b] for a, b in zip(starts, starts[1:], strict=False)]


def blank(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure and the sheet that covers it; both are measured in inches."""
    figure = Figure(figsize=(width, height))
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.set(xlim=(0, width), ylim=(0, height))
    sheet.axis('off')
    return figure, sheet


def panel(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Returns axes whose place is given in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def legend_rows(names: Sequence[str], room: float, handle: float = 0.3) -> int:
    """Returns how many lines a legend of names needs."""
    return -(-len(names) // _across(names, room, handle))


def _across(names: Sequence[str], room: float, handle: float) -> int:
    widest = max(map(measure, names), default=0.0) + handle + 0.12
    return max(min(int(room / widest), len(names)), 1)


def legend(
    sheet: Axes,
    names: Sequence[str],
    looks: Sequence[dict[str, Any]],
    left: float,
    top: float,
    room: float,
) -> None:
    """Draws names with their lines and markers, in columns.

    Args:
        sheet: Where.
        names: The names.
        looks: For each name the arguments of a line.
        left: The left edge in inches.
        top: The upper edge in inches.
        room: The width in inches.
    """
    across = _across(names, room, 0.3)
    lines = -(-len(names) // across)
    for k, (name, look) in enumerate(zip(names, looks, strict=True)):
        x, y = left + (k // lines) * room / across, top - (k % lines + 0.5) * LINE
        sheet.plot([x, x + 0.12, x + 0.24], [y] * 3, markevery=[1], **look)
        sheet.text(x + 0.3, y, name, size=SMALL, va='center')
