"""The charts by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmark.report.figures import heats, marks, modalities, severity
from benchmark.report.figures.shapes import Picture
from benchmark.report.figures.source import Source

CHARTS: dict[str, Callable[[Source], Iterator[Picture]]] = {
    'scores': heats.score,
    'gap': heats.gap,
    'difference': heats.difference,
    'missing': marks.missing,
    'expected': marks.expected,
    'shapley': marks.shapley,
    'interactions': heats.interactions,
    'ranks': marks.ranks,
    'cost': marks.cost,
    'calibration': heats.calibration,
    'reliability': marks.reliability,
    'risk': marks.risk,
    'classes': heats.classes,
    'corruptions': severity.kept,
    'severity': severity.curves,
    'curves': marks.curves,
    'modalities': modalities.curves,
}
"""Name -> what makes its pictures, in the order of the page."""
