"""In which formats and how wide figures are written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmark.errors import UserError, unknown
from benchmark.report.figures.charts import CHARTS

FORMATS = ('pdf', 'svg', 'png')
WIDTHS = {'column': 3.25, 'text': 6.75}
"""Inches of a column and of a page of two columns."""

NARROW, BROAD = 2.5, 20.0


class Settings(NamedTuple):
    """How figures are written.

    Attributes:
        charts: The names of the charts.
        formats: The suffixes of the files.
        width: The width in inches.
        data: Whether numbers are written, too.
    """

    charts: Sequence[str]
    formats: Sequence[str]
    width: float
    data: bool


def settings_of(args: argparse.Namespace) -> Settings:
    """Checks how figures are to be written.

    Raises:
        UserError: A chart or format does not exist, or the width is none.
    """
    for name in args.chart:
        if name not in CHARTS:
            raise unknown('chart', name, CHARTS)
    formats = list(dict.fromkeys(args.format.split(',')))
    for name in formats:
        if name not in FORMATS:
            raise unknown('format', name, FORMATS)
    charts = list(dict.fromkeys(args.chart)) or list(CHARTS)
    return Settings(charts, formats, width_of(args.width), args.data)


def width_of(word: str) -> float:
    """Returns the inches that a word of --width means.

    Raises:
        UserError: It is neither a name nor a width that figures can have.
    """
    try:
        found = WIDTHS[word] if word in WIDTHS else float(word)
    except ValueError:
        found = 0.0
    if not NARROW <= found <= BROAD:
        raise UserError(
            f'--width: expected {" or ".join(WIDTHS)} or a number of inches from {NARROW:g} to '
            f'{BROAD:g}, found {word!r}'
        )
    return found
