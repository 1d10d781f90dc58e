"""The sections on single modalities: what each is worth, and what happens when it fails."""

from __future__ import annotations

import itertools

import numpy as np

from benchmark.missing import subset_ids, subset_masks
from benchmark.records.units import gained
from benchmark.report import coverage, statistics
from benchmark.report.page.view import (
    Part,
    Section,
    View,
    figure,
    grid,
    lacking,
    number,
    section,
    tidy,
)


def present(view: View) -> list[str]:
    """Returns the modalities that some tested subset has: without those whose sensors are off."""
    tested = {name for subset in view.runs.subsets for name in subset.split('+')}
    return [name for name in view.runs.data['modalities'] if name in tested]


def _lattices(view: View) -> dict[int, list[dict[str, float]]]:
    """Returns method -> for each seed the scores, of runs that have one on every subset."""
    runs = view.runs
    wanted = 2 ** len(present(view)) - 1
    found: dict[int, list[dict[str, float]]] = {}
    for m, members in enumerate(view.members):
        for i in members:
            values = runs.values[i, : len(runs.subsets)]
            if len(values) == wanted and not np.isnan(values).any():
                own = dict(zip(runs.subsets, values.tolist(), strict=True))
                found.setdefault(m, []).append(own)
    return found


def _without(view: View, found: dict[int, list[dict[str, float]]]) -> str:
    """Names the methods that have no score on some subset."""
    left = [name for m, name in enumerate(view.methods) if m not in found]
    return f' Left out, without a score on every subset: {", ".join(left)}.' if left else ''


def _untested(view: View) -> str:
    """Says why there are no scores of every subset."""
    if not view.runs.which:
        return 'No method was tested on every subset.'
    return (
        f'This needs the scores of all {coverage.every(view.runs):,} subsets, of which '
        f'{len(view.runs.subsets)} were tested.'
    )


def shapley(view: View) -> Section:
    """Returns Shapley values and pairwise interactions of the modalities."""
    names, higher, empty = present(view), view.runs.higher, view.empty
    title, id = 'What each modality is worth', f'{view.id}-worth'
    found = _lattices(view)
    about = (
        'A Shapley value is the share of a modality in the gain of all modalities over none, in '
        'points of the score: the mean of what it adds, over all orders in which modalities may '
        'come. The values of a method add up to its whole gain. The interaction of two modalities '
        'is what both add together less what each adds alone: positive is synergy, negative is '
        f'redundancy. Both are exact, from the scores of all subsets. {view.told_empty()}'
        + _without(view, found)
    )
    if empty is None:
        why = 'They need the score without any modality, which the data set does not state.'
        return section(id, title, about, lacking(why))
    if not found:
        return section(id, title, about, lacking(_untested(view)))
    values = {
        m: [list(statistics.shapley(scores, names, empty, higher).values()) for scores in each]
        for m, each in found.items()
    }
    rows = []
    for m, each in values.items():
        for k, name in enumerate(tidy(names)):
            mean, std = statistics.over_seeds([view.unit.factor * seed[k] for seed in each])
            spread = 0.0 if np.isnan(std) else std
            row = [number(v) for v in (mean, std, mean - spread, mean + spread)]
            rows.append([m, name, *row])
    bars = figure(
        f'{view.id}-shapley',
        'shapley',
        'Bars: Shapley value of each modality for the chosen methods; a line is one standard '
        'deviation over seeds to either side.',
        ['m', 'modality', 'value', 'std', 'low', 'high'],
        rows,
        {'modality': 'modality', 'value': 'Shapley value', 'std': '±'},
        {'@x': gained(view.runs.metric)},
        digits=view.unit.digits,
    )
    parts = [bars]
    if len(names) > 1:
        parts.append(_interactions(view, found, empty))
    return section(id, title, about, *parts)


def _interactions(view: View, found: dict[int, list[dict[str, float]]], empty: float) -> dict:
    names, higher = present(view), view.runs.higher
    pairs = [f'{a} × {b}' for a, b in itertools.combinations(tidy(names), 2)]
    rows = []
    for each in found.values():
        seeds = [
            list(statistics.interactions(scores, names, empty, higher).values()) for scores in each
        ]
        rows.append([number(view.unit.factor * float(v)) for v in np.mean(seeds, axis=0)])
    return grid(
        f'{view.id}-pairs',
        f'Interaction of each pair of modalities in {gained(view.runs.metric)}, mean over seeds. '
        'Synergy is blue, redundancy is orange.',
        'method',
        [view.methods[m] for m in found],
        pairs,
        {'': rows},
        colours=['signed'],
        methods=True,
    )


def failing(view: View) -> Section:
    """Returns what the page computes the expected score from, when modalities fail at random."""
    title, id = 'What if a sensor fails?', f'{view.id}-fail'
    found = _lattices(view)
    left_out = (
        'What no modality scores is not known: the case that all fail at once is left out, and the '
        'expected score is that of the other cases.'
    )
    about = (
        'The expected score when each modality fails with its own probability, independently of '
        'the others: the mean of the scores of all subsets, each weighted by its probability. '
        f'{view.told_empty() or left_out} {view.better}' + _without(view, found)
    )
    if not found:
        return section(id, title, about, lacking(_untested(view)))
    names = present(view)
    subsets, factor = subset_ids(names), view.unit.factor
    part = {
        'kind': 'sliders',
        'id': f'{view.id}-expected',
        'text': f'Expected {view.score} of each method, best first.',
        'modalities': tidy(names),
        'masks': subset_masks(len(names)).astype(int).tolist(),
        'empty': None if view.empty is None else number(factor * view.empty),
        'digits': view.unit.digits,
        'values': {
            str(m): [[number(factor * scores[s]) for s in subsets] for scores in each]
            for m, each in found.items()
        },
        'higher': view.runs.higher,
    }
    return section(id, title, about, part)


def expected(sliders: Part, absent: np.ndarray) -> dict[int, list[float]]:
    """Returns method -> for each seed the expected score as printed.

    Args:
        sliders: What `failing` returned, whose sliders the page sets.
        absent: (M,) probability of each of its modalities of being missing.
    """
    empty = sliders['empty']
    weights = statistics.probabilities(absent, empty is None)
    none = float(np.prod(absent)) * (empty or 0.0)
    return {
        int(m): [float(weights @ np.array(scores)) + none for scores in each]
        for m, each in sliders['values'].items()
    }
