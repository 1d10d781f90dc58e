"""The section on corruptions: scores by severity, and what of the clean score is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from benchmark.records.corruptions import Tests
from benchmark.records.kinds import KINDS
from benchmark.records.units import shown
from benchmark.report.page.view import Section, View, figure, grid, lacking, number, section, tidy
from benchmark.report.robustness import FEWEST, Robustness
from benchmark.report.robustness_tables import NO_RELATIVE, gain

MOST = 20_000
"""Most rows of the chart; beyond it, only the complete input is shown."""


class Measure(NamedTuple):
    """What the table of methods and corruptions can show.

    Attributes:
        title: Its name with its unit.
        factor: What recorded values are multiplied by.
        colour: The colouring of its cells, as of `grid`.
        values: Returns row -> its mean over seeds, as recorded, from a modality and a corruption.
    """

    title: str
    factor: float
    colour: str
    values: Callable[[str, str], dict[str, float]]


def measures(view: View, found: Robustness) -> list[Measure]:
    """Returns what the table shows: no relative robustness where it is not known."""

    def relative(modality: str, kind: str) -> dict[str, float]:
        where = found.where(modality, kind)
        return {label: float(found.relative(label, where).mean()) for label in found.rows}

    def area(modality: str, kind: str) -> dict[str, float]:
        where = found.where(modality, kind)
        return {label: float(found.area(label, where).mean()) for label in found.rows}

    title = f'area under the severity curve{view.unit.suffix}'
    better = 'high' if view.runs.higher else 'low'
    kept = Measure('relative robustness (%)', 100.0, 'high', relative)
    return [
        *([] if found.empty is None else [kept]),
        Measure(title, view.unit.factor, better, area),
        Measure('effective robustness (points)', 100.0, 'signed', found.effective),
    ]


def section_of(view: View, tests: Mapping[str, Tests]) -> Section:
    """Returns scores by severity, and the relative robustness by modality and corruption.

    Args:
        view: The block.
        tests: Identity of a run -> its tests under corruptions.
    """
    title, id = 'Corruptions', f'{view.id}-corruptions'
    found = Robustness(view.runs, tests)
    if not view.runs.main or not found.rows or not found.kinds:
        why = 'No run was tested under corruptions. The command that made the runs does so with '
        return section(id, title, '', lacking(f'{why}--corruptions; nothing is trained again.'))
    left = [label for label in view.runs.groups if label not in found.rows]
    about = (
        'The same networks, tested with one modality corrupted at a time; severity 0 is the clean '
        f'input. {view.better} {_relative(view, found)} The area under the severity curve is the '
        'mean height of that curve. The effective robustness is the part of the score under '
        'corruption, in points, that the clean score does not explain; it is '
        f'computed from {FEWEST} methods whose scores differ on. A cell is empty where a row lacks '
        'some of the tests'
    )
    if found.empty is not None:
        about += (
            ', and a relative robustness also where the clean score is no better than that '
            'without any input'
        )
    about += '.'
    if left:
        about += f' Not tested: {", ".join(tidy(left))}.'
    return section(id, title, about, _curves(view, found), _kept(view, found))


def _relative(view: View, found: Robustness) -> str:
    if found.empty is None:
        return NO_RELATIVE
    return (
        f'The relative robustness is {gain(found)} '
        f'{shown(found.empty, view.runs.metric)}, the score without any input, that is kept, as '
        'the mean over severities.'
    )


def _curves(view: View, found: Robustness) -> dict[str, Any]:
    """Returns the score by severity; one modality, corruption and subset at a time."""
    names, labels = view.runs.data['modalities'], list(view.runs.groups)
    curves = list(found.curves())
    factor, digits = view.unit.factor, view.unit.digits
    if len(curves) * len(found.severities) > MOST:
        curves = [curve for curve in curves if curve.subset == found.whole]
    # The complete input first: it is what the reader sees first.
    subsets = [s for s in reversed(found.subsets) if any(c.subset == s for c in curves)]
    rows = [
        [
            labels.index(curve.label),
            found.modalities.index(curve.modality),
            found.kinds.index(curve.kind),
            subsets.index(curve.subset),
            severity,
            number(factor * mean, digits),
            number(factor * std, digits),
        ]
        for curve in curves
        for severity, mean, std in zip(curve.severities, curve.mean, curve.std, strict=True)
        if not np.isnan(mean)
    ]
    fitting = _subset_titles(subsets, names)
    return figure(
        f'{view.id}-severity',
        'severity',
        f'Lines: {view.runs.metric} of the chosen methods by severity of a corruption.',
        ['m', 'modality', 'kind', 'subset', 'severity', 'value', 'std'],
        rows,
        {'severity': 'severity', 'value': 'score', 'std': '±'},
        {'@y': view.score},
        digits=view.unit.digits,
        selects=[
            {'field': 'modality', 'label': 'Corrupted', 'options': tidy(found.modalities)},
            {'field': 'kind', 'label': 'by', 'options': [KINDS[kind] for kind in found.kinds]},
            {'field': 'subset', 'label': 'Given', 'options': tidy(fitting)},
        ],
    )


def _subset_titles(subsets: list[str], names: list[str]) -> list[str]:
    return ['all modalities' if s.count('+') + 1 == len(names) else s for s in subsets]


def _kept(view: View, found: Robustness) -> dict[str, Any]:
    """Returns method x corruption: one of `measures`, of one modality or of all."""
    shown_here, kinds = measures(view, found), ('', *found.kinds)
    rows = [m for m, label in enumerate(view.runs.groups) if label in found.rows]
    labels = [label for label in view.runs.groups if label in found.rows]
    layers = {}
    for n, measure in enumerate(shown_here):
        for k, modality in enumerate(('', *found.modalities)):
            columns = [measure.values(modality, kind) for kind in kinds]
            layers[f'{n}/{k}'] = [
                [number(measure.factor * column[label]) for column in columns] for label in labels
            ]
    return grid(
        f'{view.id}-kept',
        'Means over severities and seeds.',
        'method',
        [view.methods[m] for m in rows],
        ['all corruptions', *(KINDS[kind] for kind in found.kinds)],
        layers,
        [
            {'label': 'Shown', 'options': [measure.title for measure in shown_here]},
            {'label': 'Corrupted', 'options': ['any modality', *tidy(found.modalities)]},
        ],
        colours=[measure.colour for measure in shown_here],
        methods=True,
    )
