"""The charts of tests under corruptions: what of the score is kept, and the score by severity."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from benchmark.report import escaping
from benchmark.report.figures.heats import DARK, SIGNED, heat_of
from benchmark.report.figures.shapes import Column, Lines, Picture, Series
from benchmark.report.figures.source import Source, numbers_of, part_of, rows_of
from benchmark.report.page import corrupted
from benchmark.report.robustness import FEWEST

RELATIVE = 'relative'
"""The measure that is drawn for each modality; the names of its figures have no end."""

EMPTY = {
    RELATIVE: 'not tested, or a clean score that is no better than without input',
    'area': 'not tested',
    'effective': f'not tested, or without a trend of at least {FEWEST} methods',
}
"""First word of a measure -> why it has no number."""


def kept(source: Source) -> Iterator[Picture]:
    """Yields the measures by corruption of any modality, and the first of each modality, too."""
    view = source.view
    section = corrupted.section_of(view, source.tests)
    part = part_of(section, '-kept')
    columns = {k: Column(title) for k, title in enumerate(part['cols'])}
    methods = [view.methods.index(name) for name in part['rows']]
    measures, modalities = (select['options'] for select in part['selects'])
    words = [measure.split()[0] for measure in measures]
    shown = [('' if word == RELATIVE else f'-{word}', n, 0) for n, word in enumerate(words)]
    if words[0] == RELATIVE:
        shown += [(f'-{k}', 0, k) for k in range(1, len(modalities))]
    for end, n, k in shown:
        values, colouring = part['layers'][f'{n}/{k}'], part['colours'][n]
        single = words[n] == RELATIVE
        if not single and not any(value is not None for row in values for value in row):
            continue
        told = f'{measures[n]}, {modalities[k]} corrupted'
        made = heat_of(
            source,
            f'corruptions{end}',
            told[0].upper() + told[1:],
            section['about'],
            values,
            f'{told}; {SIGNED if colouring == "signed" else DARK}',
            colouring,
            columns,
            methods,
            empty=EMPTY[words[n]],
        )
        left = f'{measures[n]} of a single modality is not shown; the page has it'
        yield dataclasses.replace(made, note='' if single else left)


def curves(source: Source) -> Iterator[Picture]:
    """Yields the score by severity, for each corrupted modality, corruption and shown subset."""
    view = source.view
    section = corrupted.section_of(view, source.tests)
    part = part_of(section, '-severity')
    modalities, kinds, subsets = (select['options'] for select in part['selects'])
    asked = [escaping.terminal(subset) for subset in source.asked.subsets]
    shown = [k for k, subset in enumerate(subsets) if subset in asked] or [0]
    rows = rows_of(part)
    left = len(subsets) - len(shown)
    note = f'{left} of {len(subsets)} subsets are not shown; --subsets names others' if left else ''
    for given, m, k in (
        (given, m, k) for given in shown for m in range(len(modalities)) for k in range(len(kinds))
    ):
        here = [
            row for row in rows if (row['modality'], row['kind'], row['subset']) == (m, k, given)
        ]
        if not here:
            continue
        there = {row['m'] for row in here}
        wanted = [[row[name] for name in part['fields']] for row in here]
        end = f'-{given}' if len(shown) > 1 else ''
        yield Picture(
            f'severity-{m + 1}-{k + 1}{end}',
            f'{modalities[m]} under {kinds[k]}, given {subsets[given]}',
            section['about'],
            Lines(
                [_series(view.methods[n], here, n) for n in source.order if n in there],
                f'severity of {kinds[k]} in {modalities[m]}, given {subsets[given]}',
                view.score,
            ),
            *numbers_of({**part, 'rows': wanted}, view.methods),
            note,
        )
        note = ''


def _series(name: str, rows: list[dict[str, Any]], m: int) -> Series:
    own = [row for row in rows if row['m'] == m]
    band = []
    for row in own:
        spread = 0.0 if row['std'] is None or math.isnan(row['std']) else row['std']
        band.append((row['severity'], row['value'] - spread, row['value'] + spread))
    return Series(name, [[(row['severity'], row['value']) for row in own]], band)
