"""Every method of a block against one of them: differences, tests, and the seeds needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError, unknown
from benchmark.records.units import Unit
from benchmark.report import captions, comparison, settings
from benchmark.report.comparison import MOST_SEEDS, Comparison, p_text
from benchmark.report.cost_table import TextTable
from benchmark.report.runs import Runs
from benchmark.report.standings import MIN_UNITS

POINTS = (0.5, 1.0, 2.0)
"""Differences for which the seeds needed are told, in points of percent or hundredths."""


class Line(NamedTuple):
    """One method against the baseline in one column.

    Attributes:
        method: The label of the row.
        column: The id of the column.
        found: Method less baseline.
        p: The p-value after Holm's correction over the rows of the column.
        deviations: The difference in standard deviations between seeds, NaN if these are 0.
        better: Probability that one run of the method is better than one of the baseline; NaN where
            one of them was not tested.
        seeds: The seeds needed for each of `POINTS`; None is more than `MOST_SEEDS`.
    """

    method: str
    column: str
    found: Comparison
    p: float
    deviations: float
    better: float
    seeds: tuple[int | None, ...]


def against(runs: Runs, baseline: str) -> list[Line]:
    """Compares every other ranked method with the baseline, in the mean and on each subset.

    Raises:
        UserError: There is no such row, or it cannot be compared; the message says why.
    """
    standings = runs.standings
    if baseline not in runs.groups:
        raise unknown('method', baseline, runs.groups)
    if standings.lacking:
        raise UserError(f'--baseline {baseline}: {standings.lacking}')
    if baseline in standings.left_out:
        raise UserError(f'--baseline {baseline}: it has {standings.left_out[baseline]}')
    others = [label for label in standings.ranked if label != baseline]
    return [
        line for c in (standings.main, *runs.subsets) for line in _column(runs, baseline, others, c)
    ]


def _column(runs: Runs, baseline: str, others: Sequence[str], column: str) -> Iterator[Line]:
    standings = runs.standings
    values = runs.values[:, list(runs.columns).index(column)]
    units, base = standings.units[column], values[standings.runs[baseline]]
    point = runs.printed.point
    found = [standings.compare(label, baseline, column) for label in others]
    tested = [k for k, each in enumerate(found) if not math.isnan(each.p)]
    adjusted = np.full(len(found), np.nan)
    adjusted[tested] = comparison.holm([found[k].p for k in tested])
    for label, each, p in zip(others, found, adjusted.tolist(), strict=True):
        own = values[standings.runs[label]]
        spread = math.sqrt((own.var(ddof=1) + base.var(ddof=1)) / 2)
        yield Line(
            method=label,
            column=column,
            found=each,
            p=p,
            deviations=each.difference / spread if spread else math.nan,
            better=math.nan
            if math.isnan(each.difference)
            else comparison.better(own, base, runs.higher),
            seeds=tuple(comparison.seeds_needed(each, d * point, units) for d in POINTS)
            if not math.isnan(p)
            else (),
        )


def tables(runs: Runs, baseline: str) -> list[TextTable]:
    """Returns a table for the mean and one for each subset."""
    lines = against(runs, baseline)
    standings, unit = runs.standings, runs.printed
    needed = [f'seeds, {unit.factor * unit.point * d:g} {unit.points}'.rstrip() for d in POINTS]
    caption = (
        f'{runs.metric} {unit.counted}, {"higher" if runs.higher else "lower"} is better; method '
        f'less baseline, on seeds {", ".join(map(str, standings.seeds))}. The interval is not '
        'corrected; p is corrected by Holm over the rows. The last columns tell how many seeds '
        'of each method would show such a difference with a power of 80 %.'
    )
    if standings.left_out:
        told = ', '.join(f'{label} ({why})' for label, why in standings.left_out.items())
        caption += f' Not compared: {told}.'
    if standings.partial:
        told = ', '.join(standings.partial)
        caption += f' Tested on some subsets alone and hence not compared in the mean: {told}.'
    caption += f' {captions.numbers(runs)}'.rstrip()
    made = []
    for column in (standings.main, *runs.subsets):
        few = standings.effective[column] < MIN_UNITS
        note = f' Not tested: fewer than {MIN_UNITS} independent samples.' if few else ''
        made.append(
            TextTable(
                title=f'{settings.named(runs)}: {column} against {baseline} ({runs.protocol_id})',
                caption=caption + note,
                header=[
                    'method',
                    'difference',
                    '95 % interval',
                    'p (Holm)',
                    'in seed sd',
                    'P(better)',
                    *needed,
                ],  # fmt: skip
                rows=[_cells(line, unit) for line in lines if line.column == column],
            )
        )
    return made


def _cells(line: Line, unit: Unit) -> list[str]:
    found, tested = line.found, not math.isnan(line.p)
    return [
        line.method,
        unit.text(found.difference, '+'),
        f'{unit.text(found.low, "+")} to {unit.text(found.high, "+")}' if tested else '',
        p_text(line.p) if tested else '',
        _signed(line.deviations),
        '' if math.isnan(line.better) else f'{line.better:.2f}',
        *(_seeds(count) for count in line.seeds),
        *([''] * (len(POINTS) - len(line.seeds))),
    ]


def _signed(value: float) -> str:
    return '' if math.isnan(value) else f'{value:+.2f}'


def _seeds(count: int | None) -> str:
    return f'> {MOST_SEEDS}' if count is None else str(count)


HEADER = ['protocol', 'column', 'method', 'baseline', 'difference', 'low', 'high', 'p', 'p_holm',
          'seed_deviations', 'probability_better', *(f'seeds_{d:g}' for d in POINTS)]  # fmt: skip


def plain(gathered: Iterable[Runs], baseline: str) -> list[list[float | str]]:
    """Returns the header and lines of the CSV file: numbers as printed, empty if not known."""
    rows: list[list[float | str]] = [list(HEADER)]
    for runs in gathered:
        for line in against(runs, baseline):
            found = line.found
            ends = found.difference, found.low, found.high
            points = [runs.printed.factor * v for v in ends]
            numbers = [*points, found.p, line.p, line.deviations, line.better]
            needed = ['' if n is None else n for n in line.seeds] or [''] * len(POINTS)
            rows.append([runs.protocol_id, line.column, line.method, baseline, *numbers, *needed])
    return rows
