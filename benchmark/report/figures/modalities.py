"""How each modality learns, method by method: its loss alone, gradient norm and score alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmark.report import escaping
from benchmark.report.figures.shapes import Grid, Picture, Series
from benchmark.report.figures.source import Source, part_of, rows_of
from benchmark.report.page.curves import ALONE, NORM, VALIDATION
from benchmark.report.writer import Lacking

ABOUT = (
    'A column for each method, a line for each modality and seed. The loss is that of the task on '
    'the validation split, given this modality alone. The gradient norm is the mean over the steps '
    'of an epoch of the norm of the gradient of the encoder of the modality. The score is that of '
    'the validation split, given this modality alone. All charts of a row have one scale.'
)

Curves = dict[tuple[int, str, str], dict[int, list[tuple[int, float]]]]
"""Number of a method, title of a row and modality -> seed -> points (epoch, value)."""


def curves(source: Source) -> Iterator[Picture]:
    """Yields one picture with the curves of all methods that have some.

    Raises:
        Lacking: No run has any.
    """
    score = f'{source.view.score}, alone'
    begins = {'validation loss, alone': ALONE, 'gradient norm': NORM, score: VALIDATION}
    found = _found(source, begins)
    methods = [m for m in source.order if any(key[:2] == (m, 'gradient norm') for key in found)]
    methods += [
        m
        for m in source.order
        if m not in methods and any(key[:2] == (m, 'validation loss, alone') for key in found)
    ]
    if not methods:
        raise Lacking('no run has kept how each modality learns; run.py --curves keeps it')
    methods.sort(key=source.order.index)
    names, modalities = source.view.methods, source.modalities
    labels = [title for title in begins if any(key[1] == title for key in found)]
    charts = [
        [
            [
                Series(name, list(found[m, title, name].values()))
                for name in modalities
                if (m, title, name) in found
            ]
            for m in methods
        ]
        for title in labels
    ]
    shape = Grid([names[m] for m in methods], labels, charts, modalities, 'epoch')
    rows: list[list[Any]] = [
        [names[m], title, name, seed, epoch, value]
        for m in methods
        for title in labels
        for name in modalities
        for seed, points in found.get((m, title, name), {}).items()
        for epoch, value in points
    ]
    header = ['method', 'quantity', 'modality', 'seed', 'epoch', 'value']
    yield Picture('modalities', 'Training: each modality', ABOUT, shape, header, rows)


def _found(source: Source, begins: dict[str, str]) -> Curves:
    """Returns the curves of single modalities.

    Args:
        source: The block.
        begins: Title of a row -> what the names of its curves in the page begin with.
    """
    part = part_of(source.curves, '-curves')
    options = part['selects'][0]['options']
    kinds = {
        f'{begin}{escaping.terminal(name)}': (title, shown)
        for title, begin in begins.items()
        for name, shown in zip(source.view.runs.data['modalities'], source.modalities, strict=True)
    }
    found: Curves = {}
    for row in rows_of(part):
        if place := kinds.get(options[row['kind']]):
            by_seed = found.setdefault((row['m'], *place), {})
            by_seed.setdefault(row['seed'], []).append((row['epoch'], row['value']))
    return found
