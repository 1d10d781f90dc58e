"""The section on cost: what a score costs, and which methods no other one beats in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmark.report import cost_table
from benchmark.report.page.view import Section, View, figure, lacking, number, section
from benchmark.report.standings import MAIN

SIZES = {
    'deployed_parameters': 'parameters of a prediction',
    'train_seconds_with_teacher': 'seconds of training, with the teacher',
    'test_seconds': 'seconds to test all subsets',
}


def front(costs: Sequence[float], scores: Sequence[float], higher: bool) -> list[bool]:
    """Returns which points are on the Pareto front.

    A point is on the front if none other is at most as costly and at least as good, and better in
    one of the two.
    """
    signed = [score if higher else -score for score in scores]
    points = list(zip(costs, signed, strict=True))
    return [
        not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        for cost, score in points
    ]


def _places(costs: Sequence[float], on: Sequence[bool]) -> list[int]:
    """Returns for each point its place on the front, cheapest first, or 0 if it is not on it."""
    cheapest = sorted(k for k in range(len(costs)) if on[k])
    cheapest.sort(key=costs.__getitem__)
    return [cheapest.index(k) + 1 if on[k] else 0 for k in range(len(costs))]


def section_of(view: View) -> Section:
    """Returns cost against score, for each kind of cost."""
    runs, columns = view.runs, list(view.runs.columns)
    facts = [
        cost_table.facts([runs.records[i] for i in members]) for members in runs.groups.values()
    ]
    kinds = [(key, title, MAIN) for key, title in SIZES.items()]
    flops = [(f'flops_{s}', f'FLOPs on {s}', s) for s in runs.subsets]
    kinds += [kind for kind in reversed(flops) if any(kind[0] in fact for fact in facts)]
    rows: list[list[Any]] = []
    options: list[str] = []
    for key, title, column in kinds:
        scores = view.means[:, columns.index(column)]
        known = [
            m
            for m, fact in enumerate(facts)
            # A logarithmic axis has no 0, which stands for what was not counted.
            if float(fact.get(key, 0)) > 0
            and not math.isnan(scores[m])
            and (column != MAIN or (view.tested[m] == view.tested[view.order[0]]).all())
        ]
        if not known:
            continue
        costs = [float(facts[m][key]) for m in known]
        places = _places(costs, front(costs, [scores[m] for m in known], runs.higher))
        rows += [
            [m, len(options), number(cost), number(scores[m]), place]
            for m, cost, place in zip(known, costs, places, strict=True)
        ]
        options.append(f'{title} / {"mean score" if column == MAIN else "score there"}')
    about = (
        f'{view.better} Filled points with names are the Pareto front: no other method is at most '
        'as costly and at least as good. The score is the mean over subsets; against the FLOPs of '
        'one sample on a subset it is the score on that subset. Seconds are means over seeds, and '
        'comparable only if all runs were made on one machine. Methods whose cost was not counted '
        'are not shown, nor those whose mean is over other subsets.'
    )
    part = lacking('The records hold no cost.')
    if rows:
        part = figure(
            f'{view.id}-pareto',
            'cost',
            f'Points: cost and {runs.metric} of each method, with the Pareto front as a line.',
            ['m', 'kind', 'cost', 'score', 'front'],
            rows,
            {'cost': 'cost', 'score': 'score', 'front': 'place on the front'},
            {'@y': view.score},
            [{'field': 'kind', 'label': 'Cost', 'options': options}],
            all=True,
            log=True,
            digits=view.unit.digits,
        )
    return section(f'{view.id}-cost', 'Cost and score', about, part)
