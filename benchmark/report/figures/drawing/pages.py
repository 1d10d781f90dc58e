"""The figures of a shape: one, or several where it does not fit on a page."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from benchmark.report.figures.drawing import grid, heat, lines, matrices, rows, scatter
from benchmark.report.figures.shapes import Grid, Heat, Lines, Matrices, Rows, Scatter, Shape

DRAW: dict[type, Any] = {
    Heat: heat.draw,
    Lines: lines.draw,
    Rows: rows.draw,
    Scatter: scatter.draw,
    Matrices: matrices.draw,
    Grid: grid.draw,
}


def draw(shape: Shape, width: float) -> list[Figure]:
    """Returns the figures that show a shape.

    Args:
        shape: What is shown.
        width: The width in inches; the height follows, up to `sheets.TALLEST`.

    Raises:
        Lacking: The shape does not fit into the width.
    """
    return list(DRAW[type(shape)](shape, width))
