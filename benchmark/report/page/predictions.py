"""The sections made of outcomes: calibration, and which classes are taken for which."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmark.records import labels, metrics
from benchmark.records.schema import Outcomes, Record
from benchmark.report.page import calibration
from benchmark.report.page.view import (
    Part,
    Section,
    View,
    figure,
    grid,
    lacking,
    number,
    numbers,
    section,
    tidy,
)

COVERAGE = np.arange(5, 101, 5)
"""Percentages of the samples at which the page shows the risk."""

SHOWN_BINS = 10
MOST_CLASSES = 40
"""Most classes of a confusion matrix that the page shows."""

DETAILED = 31
"""Most subsets whose curves and confusions are shown; of more, those of `detailed`."""


class Seen(NamedTuple):
    """What the page keeps of one run's outcomes on one subset.

    Attributes:
        numbers: Expected calibration error, Brier score, area under the risk-coverage curve, mean
            confidence less accuracy; NaN where not known.
        risks: The share of errors at each of `COVERAGE`, or None.
        binned: Its reliability, `calibration.bins` with `SHOWN_BINS`, or None.
        confusion: (K, K) numbers of samples, rows are true classes, or None for segmentation.
        classes: (K,) IoU of each class or Dice of each region, or None for classification.
    """

    numbers: list[float]
    risks: np.ndarray | None = None
    binned: np.ndarray | None = None
    confusion: np.ndarray | None = None
    classes: np.ndarray | None = None


Runs = list[dict[str, Seen]]
"""For each run subset -> what was seen; nothing for runs without outcomes."""


def look(record: Record, outcomes: Outcomes | None) -> dict[str, Seen]:
    """Returns for each subset what the page keeps of a run's outcomes."""
    tests = record['scores']['test'] if outcomes else ()
    return {subset: _seen(outcomes or {}, subset, record) for subset in tests}


def _seen(outcomes: Outcomes, subset: str, record: Record) -> Seen:
    data = record['dataset']
    unknown = [math.nan] * 4
    if data['kind'] == 'segmentation':
        areas = outcomes[f'areas/{subset}']
        if data['metric'] == 'Dice':
            there = metrics.tested(outcomes, subset, 'Dice')
            return Seen(unknown, classes=metrics.dice(areas[there]).mean(0))
        right, predicted, labelled = areas.sum(0, dtype=np.int64)
        return Seen(unknown, classes=metrics.ratio(right, predicted + labelled - right))
    if data['kind'] == 'multilabel':
        there = metrics.tested(outcomes, subset, 'F1')
        summed = labels.counts(outcomes['target'], outcomes[f'logit/{subset}'])[there].sum(0)
        return Seen(unknown, classes=labels.f1(summed))
    if data['kind'] == 'regression':
        return Seen(unknown)
    count = len(data['classes'])
    table = metrics.confusion(outcomes['target'], outcomes[f'pred/{subset}'], count)
    told = calibration.stated(outcomes, subset, data)
    if told is None or not len(told.right):
        return Seen(unknown, confusion=table)
    risks = calibration.risks(told)
    measured = [
        calibration.calibration_error(calibration.bins(told)),
        math.nan if told.brier is None else float(told.brier.mean()),
        float(risks.mean()),
        float(told.confidence.mean() - told.right.mean()),
    ]
    at = -(-COVERAGE * len(risks) // 100) - 1  # rounded up, in whole numbers
    return Seen(measured, risks[at], calibration.bins(told, SHOWN_BINS), table)


def detailed(subsets: Sequence[str]) -> list[str]:
    """Returns the subsets whose curves are shown: all, or the smallest and the largest ones."""
    if len(subsets) <= DETAILED:
        return list(subsets)
    sizes = [s.count('+') + 1 for s in subsets]
    wanted = {1, max(sizes) - 1, max(sizes)}
    return [s for s, size in zip(subsets, sizes, strict=True) if size in wanted]


def _of(view: View, found: Runs, subset: str) -> list[tuple[int, list[Seen]]]:
    """Returns for each method what was seen on a subset, of the runs that were tested on it."""
    return [
        (m, [found[i][subset] for i in members if subset in found[i]])
        for m, members in enumerate(view.members)
    ]


MEASURES = {
    'expected calibration error (%)': 'low',
    'Brier score (%)': 'low',
    'area under the risk-coverage curve (%)': 'low',
    'confidence less accuracy (points)': 'signed',
}


def calibrated(view: View, found: Runs) -> Section:
    """Returns calibration per subset."""
    id, title = f'{view.id}-calibration', 'Can the stated probabilities be trusted?'
    about = (
        'The expected calibration error is the mean distance between stated confidence and share '
        f'of right answers, in {calibration.BINS} bins. The Brier score is half the squared '
        'distance of the probabilities from the truth. Risk is the share of errors among the most '
        'confident predictions; coverage is how many are kept. Confidence above accuracy is '
        'overconfidence. All are means over seeds.'
    )
    if view.runs.data['kind'] == 'segmentation':
        why = 'Outcomes of segmentation hold areas and no probabilities: nothing can be told.'
        return section(id, title, about, lacking(why))
    layers = _layers(view, found, lambda seen: seen.numbers, len(MEASURES))
    if all(v is None for layer in layers.values() for row in layer for v in row):
        why = 'The outcomes of these runs hold no probabilities, or are not at hand.'
        return section(id, title, about, lacking(why))
    part = grid(
        f'{view.id}-calibrated',
        'Calibration of each method on each subset, mean over seeds.',
        'method',
        view.methods,
        view.subsets,
        layers,
        [{'label': 'Show', 'options': list(MEASURES)}],
        colours=list(MEASURES.values()),
        methods=True,
    )
    return section(id, title, about, part, *_curves(view, found))


Values = Callable[[Seen], Sequence[float] | np.ndarray | None]
"""What is told of a run on a subset, as fractions; None where nothing is known."""


def _layers(view: View, found: Runs, values: Values, count: int) -> dict[str, Any]:
    """Returns number of a value -> its means over seeds in percent, a list of subsets per method.

    Args:
        view: The block.
        found: What was seen of each run.
        values: What is told.
        count: How many values it returns.
    """
    columns = [
        [[v for v in map(values, each) if v is not None] for _, each in _of(view, found, subset)]
        for subset in view.runs.subsets
    ]
    rows = list(zip(*columns, strict=True))
    return {
        str(k): [[_mean([100 * v[k] for v in known]) for known in row] for row in rows]
        for k in range(count)
    }


def _mean(values: Sequence[float]) -> float | None:
    return number(float(np.mean(values)), 3) if values else None


def _curves(view: View, found: Runs) -> list[Part]:
    """Returns risk against coverage, and accuracy against confidence."""
    shown = detailed(view.runs.subsets)
    risks, bins = [], []
    for k, subset in enumerate(shown):
        for m, each in _of(view, found, subset):
            known = [seen.risks for seen in each if seen.risks is not None]
            if not known:
                continue
            mean = 100 * np.mean(known, axis=0)
            risks += [[m, k, int(c), number(r, 2)] for c, r in zip(COVERAGE, mean, strict=True)]
            pooled = np.sum([s.binned for s in each if s.binned is not None], axis=0)
            bins += [
                [m, k, number(100 * sure / n, 2), number(100 * right / n, 2), int(n)]
                for n, sure, right in pooled.T
                if n
            ]
    last = len(shown) - 1
    select = [{'field': 's', 'label': 'Subset', 'options': tidy(shown), 'first': last}]
    return [
        figure(
            f'{view.id}-risk',
            'risk',
            'Lines: errors among the most confident predictions, by the share that is kept.',
            ['m', 's', 'coverage', 'risk'],
            risks,
            {'coverage': 'coverage (%)', 'risk': 'risk (%)'},
            selects=select,
        ),
        figure(
            f'{view.id}-reliability',
            'reliability',
            'Lines: share of right answers by stated confidence, in bins, all seeds together. '
            'Below the diagonal a network is overconfident.',
            ['m', 's', 'confidence', 'accuracy', 'n'],
            bins,
            {'confidence': 'confidence (%)', 'accuracy': 'right (%)', 'n': 'samples'},
            selects=select,
        ),
    ]


def confused(view: View, found: Runs) -> Section:
    """Returns which classes are taken for which, or how well each class is found."""
    data = view.runs.data
    id = f'{view.id}-classes'
    if data['kind'] in ('segmentation', 'multilabel'):
        return _by_class(view, found, id)
    title = 'Which classes are confused'
    if data['kind'] == 'regression':
        return section(id, title, '', lacking('Values are no classes.'))
    about = 'In percent of each true class, how its samples were classified, all seeds together.'
    names = tidy(data['classes'])
    if len(names) > MOST_CLASSES:
        why = f'There are {len(names)} classes; matrices of more than {MOST_CLASSES} are not shown.'
        return section(id, title, about, lacking(why))
    shown, layers = detailed(view.runs.subsets), {}
    for k, subset in enumerate(shown):
        for m, each in _of(view, found, subset):
            tables = [seen.confusion for seen in each if seen.confusion is not None]
            if tables:
                total = np.sum(tables, axis=0)
                share = 100 * metrics.ratio(total, total.sum(1, keepdims=True))
                layers[f'{m}/{k}'] = numbers(share, 2)
    if not layers:
        return section(id, title, about, lacking('No outcomes are at hand.'))
    selects = [
        {'label': 'Method', 'options': view.methods, 'first': view.order[0]},
        {'label': 'Subset', 'options': tidy(shown), 'first': len(shown) - 1},
    ]
    caption = 'Rows: true class. Columns: predicted class. Percent of the row.'
    part = grid(f'{view.id}-confusion', caption, 'true class', names, names, layers, selects)
    return section(id, title, about, part)


def _by_class(view: View, found: Runs, id: str) -> Section:
    """Returns IoU of each class or Dice of each region, by method and subset."""
    data = view.runs.data
    dice = data['metric'] == 'Dice'
    known = next((seen.classes for run in found for seen in run.values()), None)
    kind = 'Dice' if dice else 'F1' if data['kind'] == 'multilabel' else 'IoU'
    title = f'{kind} of each {"region" if dice else "class"}'
    about = (
        f'{kind} in percent, mean over seeds; higher is better. Outcomes hold areas per class, not '
        'which class was taken for which, so that there is no confusion matrix.'
    )
    if known is None:
        return section(id, title, about, lacking('No outcomes are at hand.'))
    given = data.get('regions', []) if dice else data['classes']
    names = tidy(given) or [f'region {k + 1}' for k in range(len(known))]
    layers = _layers(view, found, lambda seen: seen.classes, len(known))
    part = grid(
        f'{view.id}-each',
        f'{kind} of one {"region" if dice else "class"} for each method on each subset.',
        'method',
        view.methods,
        view.subsets,
        layers,
        [{'label': 'Show', 'options': names}],
        colours=['high'] * len(names),
        methods=True,
    )
    return section(id, title, about, part)
