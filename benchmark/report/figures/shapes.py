"""What a figure shows, as numbers and texts: shapes that every drawing library could draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = float | None
"""A number, or None where nothing was measured."""

Colouring = Literal['high', 'low', 'signed', 'against']
"""Which numbers are dark: high or low ones; or which are blue: positive ('signed') or negative."""


@dataclass(frozen=True)
class Column:
    """A column of a heatmap.

    Attributes:
        title: Its title.
        members: The numbers of the modalities that it has, shown as filled circles in the place of
            the title, or None.
    """

    title: str
    members: frozenset[int] | None = None


@dataclass(frozen=True)
class Heat:
    """A heatmap.

    Attributes:
        rows: The titles of the R rows.
        columns: The C columns; those with circles come first.
        values: R lists of C numbers.
        modalities: The names of the modalities, for the circles.
        label: What the colours show.
        colouring: Which numbers are dark or blue.
        empty: Why a cell has no number.
        digits: The most decimals of a number.
    """

    rows: Sequence[str]
    columns: Sequence[Column]
    values: Sequence[Sequence[Value]]
    modalities: Sequence[str]
    label: str
    colouring: Colouring
    empty: str = 'not known'
    digits: int = 2


@dataclass(frozen=True)
class Series:
    """What one method has in a chart of lines.

    Attributes:
        name: The method.
        lines: Lists of points (x, y), each joined by a line.
        band: Points (x, low, high), between which the band lies.
        dots: Single points (x, y).
    """

    name: str
    lines: Sequence[Sequence[tuple[float, float]]]
    band: Sequence[tuple[float, float, float]] = ()
    dots: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Lines:
    """A chart of lines; many series are spread over several panels.

    Attributes:
        series: The series, best method first.
        x: Title of the x-axis.
        y: Title of the y-axis.
        whole: Whether x is a whole number, at which the dots of the series stand side by side.
        shared: Whether the numbers of different methods are comparable.
        diagonal: Whether both axes are percentages, on whose diagonal a method should lie.
    """

    series: Sequence[Series]
    x: str
    y: str
    whole: bool = False
    shared: bool = True
    diagonal: bool = False


@dataclass(frozen=True)
class Mark:
    """A number with its interval, in a row of a chart of rows."""

    row: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """Marks of one kind, for example those of one modality.

    Attributes:
        name: What they are.
        marks: At most one for each row.
        dots: Single points (row, value), for example of seeds.
    """

    name: str
    marks: Sequence[Mark]
    dots: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True)
class Rows:
    """A chart with one row for each method.

    Attributes:
        rows: The names of the methods, from above.
        groups: What is shown in each row.
        label: Title of the x-axis.
        whole: Whether the numbers are whole, such as ranks, and the ends of an interval belong to
            it.
        zero: Whether zero is marked.
    """

    rows: Sequence[str]
    groups: Sequence[Group]
    label: str
    whole: bool = False
    zero: bool = False


@dataclass(frozen=True)
class Point:
    """A method in a chart of cost against score.

    Attributes:
        number: The number of the method in the list of names.
        x: The cost.
        y: The score.
        front: Whether no other method is at most as costly and at least as good.
    """

    number: int
    x: float
    y: float
    front: bool


@dataclass(frozen=True)
class Scatter:
    """Panels of points with numbers, and the list of what the numbers stand for.

    Attributes:
        panels: For each panel the title of the x-axis, that of the y-axis, and the points.
        names: The names of the methods, of which the first has the number 1.
        higher: Whether a higher score is better.
        digits: Number of decimals of a score.
    """

    panels: Sequence[tuple[str, str, Sequence[Point]]]
    names: Sequence[str]
    higher: bool
    digits: int = 2


@dataclass(frozen=True)
class Matrices:
    """Square matrices of percentages, one for each subset.

    Attributes:
        names: The names of the K classes.
        panels: For each matrix its title and K lists of K numbers; rows are the true classes.
        label: What the colours show.
    """

    names: Sequence[str]
    panels: Sequence[tuple[str, Sequence[Sequence[Value]]]]
    label: str


@dataclass(frozen=True)
class Grid:
    """Charts of lines side by side: a column for each method, a row for each quantity.

    All charts of a row have one y-axis, so that methods can be compared.

    Attributes:
        columns: The titles of the C columns.
        labels: The titles of the y-axes of the R rows.
        charts: R lists of C lists of series; a series of one name looks the same everywhere.
        names: The names of the series.
        x: Title of the x-axis.
    """

    columns: Sequence[str]
    labels: Sequence[str]
    charts: Sequence[Sequence[Sequence[Series]]]
    names: Sequence[str]
    x: str


Shape = Heat | Lines | Rows | Scatter | Matrices | Grid


@dataclass(frozen=True)
class Picture:
    """A figure and the numbers in it.

    Attributes:
        name: What the name of its files ends in.
        title: What it shows, in a few words.
        about: How to read it, in sentences.
        shape: What is drawn.
        header: The titles of the columns of its numbers.
        rows: Its numbers.
        note: What is not in the figure, and where it is; empty if it shows all.
    """

    name: str
    title: str
    about: str
    shape: Shape
    header: Sequence[str]
    rows: Sequence[Sequence[str | Value]] = field(default_factory=list)
    note: str = ''
