"""Tests differences between committed rows: python docs/comparisons.py.

Writes the tables in `docs/comparisons/` that the page of results includes. The tests are those of
the tables of results (`benchmark.report.comparison`), which compare neighbours in the order of the
scores; here the rows are compared with modality dropout, and some with each other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path[0] = str(ROOT)

from benchmark.engine import grids, values  # noqa: E402
from benchmark.options import Spec  # noqa: E402
from benchmark.registry import discover  # noqa: E402
from benchmark.report import comparison, runs  # noqa: E402
from docs.committed import PLACES, RATES, REFERENCE, gathered, rates, rows_of  # noqa: E402
from docs.machines import machines  # noqa: E402
from docs.searches import search  # noqa: E402

BASE = 'modality_dropout'

PAIRS = [
    ('mmin', 'mmanet'),
    ('mmin', 'rfnet'),
    ('mmanet', 'rfnet'),
    ('mmanet', 'mmanet:alpha=0'),
    ('mmanet', 'mmanet:variant=official'),
    ('mmanet', 'distilled'),
    ('customized', 'complete'),
]
"""Pairs of rows of the reference that are tested beside; the text speaks of most of them."""


MASKED = {'gated': 'fusion'}
"""Operator -> the label of its row, where it is not `fusion:fusion=<operator>`."""
LATE = 'late_fusion', 'late_fusion:combine=product', 'late_fusion:combine=learned'
"""The rows of late fusion, one for each rule."""

NEW = {
    'eight_rooms': {range(5, 8): ('redcore', 'ogm_ge')},
    'eight_faces': {
        range(5, 8): ('passion', 'm3ae'),
        range(3, 8): ('distilled:alpha=auto,temperature=2',),
    },
    'eight_gaps': {range(3, 8): ('redcore', 'redcore:rate=0')},
}
"""Page of rows with eight seeds -> the seeds that were new when rows were chosen after the others,
and these rows."""

Case = tuple[str, str, str]

DIGITS = 'modality_dropout', 'customized', 'mmanet', 'mmin'
"""The networks that are held against logistic regression on the digits."""

REPEATED: dict[tuple[str, int, int], tuple[range, Case]] = {
    ('synth_rooms', 800, 8): (range(5, 8), ('complete', BASE, 'rgb+depth')),
    ('synth_faces', 2000, 12): (range(3, 8), ('customized', BASE, 'mean')),
    ('synth_rooms', 500, 4): (range(3, 8), ('mmin', BASE, 'mean')),
    ('digits', 900, 4): (range(5, 10), ('customized', BASE, 'mean')),
    ('digits', 900, 8): (range(5, 10), ('customized', BASE, 'mean')),
}
"""Data set, training samples and width -> the seeds that were new when the comparison was chosen
after the others, and what is compared."""


def family(tested: Sequence[tuple[runs.Runs, Case]], names: Sequence[str] = ()) -> list[list[str]]:
    """Returns a row per (first, second, column), with p-values corrected over all of them.

    Args:
        tested: The runs that hold both rows, and what is compared.
        names: What stands before the column, for each comparison; '' for nothing.
    """
    found = [known.standings.compare(*case) for known, case in tested]
    adjusted = comparison.holm([c.p for c in found])
    return [
        [
            f'`{first}` - `{second}`',
            f'{name}{column}',
            f'{100 * c.difference:+.2f}',
            f'{100 * c.low:+.2f} to {100 * c.high:+.2f}',
            comparison.p_text(p),
            'yes' if p < comparison.LEVEL else 'no',
        ]
        for (_, (first, second, column)), c, p, name in zip(
            tested, found, adjusted, names or [''] * len(found), strict=True
        )
    ]


def _row(operator: str) -> str:
    return MASKED.get(operator, f'fusion:fusion={operator}')


def _with_zeros(operator: str) -> str:
    own = '' if operator in MASKED else f',fusion={operator}'
    return f'fusion:absent=zero{own}'


def ablation(known: runs.Runs) -> dict[str, list[Case]]:
    """Returns the families of tests of MMANet's parts."""
    parts = ('mmanet:alpha=0', 'mmanet:beta=0', 'mmanet:weak=single', 'mmanet:weak=all')
    return against_base(known) | {'Parts of MMANet': [('mmanet', part, 'mean') for part in parts]}


def fusion(_: runs.Runs) -> dict[str, list[Case]]:
    """Returns the families of tests of the fusion operators."""
    zeros = [o for o in grids.OPERATORS if o not in grids.SAME]
    others = [o for o in grids.OPERATORS if o != 'concat']
    return {
        'Absent modalities left out against plain zeros': [
            (_row(o), _with_zeros(o), 'mean') for o in zeros
        ],
        'Every operator against concatenation': [
            *((_row(o), _row('concat'), 'mean') for o in others),
            *((label, _row('concat'), 'mean') for label in LATE),
        ],
    }


def variants(known: runs.Runs) -> dict[str, list[Case]]:
    """Returns the tests of every official variant against the paper's, in the order of the grid."""
    labels: dict[str, dict[str, str]] = {}
    for label, (first, *_) in known.groups.items():
        method = known.records[first]['method']
        labels.setdefault(method['name'], {})[method['options'].get('variant', 'paper')] = label
    pairs = (labels[name] for name in grids.VARIED if name in labels)
    return {'Released code against the paper': [(p['official'], p['paper'], 'mean') for p in pairs]}


def untuned(known: runs.Runs) -> dict[str, list[Case]]:
    """Returns the tests of every method's row after its search against the one before it."""
    discover()
    dataset = known.records[0]['dataset']['name']
    before = {name: str(values.untuned(Spec(name), dataset)) for name in grids.SEARCHED}
    pairs = [(name, label) for name, label in before.items() if label != name]
    return {
        'After the search against before it': [
            (*pair, 'mean') for pair in pairs if all(label in known.groups for label in pair)
        ]
    }


def rate_cases(known: dict[str, runs.Runs]) -> list[tuple[str, Case]]:
    """Returns the tests between the rows of a page: (missing rate, what is compared)."""
    pairs = ('redcore', BASE), ('redcore:rate=0', BASE), ('redcore', 'redcore:rate=0')
    others = ('passion', BASE), ('passion', 'redcore')
    return [
        (rate, (*pair, 'mean'))
        for rate, rows in known.items()
        for pair in (*pairs, *others)
        if {*pair} <= rows.groups.keys()
    ]


def against_base(known: runs.Runs, *several: str) -> dict[str, list[Case]]:
    """Returns the tests of every row's mean, and of some by subset, against modality dropout."""
    others = [label for label in known.groups if label != BASE]
    found: dict[str, list[Case]] = {
        f'Every row against `{BASE}`': [(label, BASE, 'mean') for label in others]
    }
    for one in (one for one in several if one in known.groups):
        subsets: list[Case] = [(one, BASE, column) for column in known.subsets]
        found[f'`{one}` against `{BASE}`, by subset'] = subsets
    return found


def with_gaps(known: runs.Runs) -> dict[str, list[Case]]:
    """Returns the families of tests of RedCore where a half of each modality is missing."""
    pair = 'redcore', 'redcore:rate=0', 'mean'
    return against_base(known) | {'RedCore against equal supervision': [pair]}


FAMILIES = {
    'ablation': ablation,
    'fusion': fusion,
    'variants': variants,
    'reference+variants': untuned,
    'eight': against_base,
    'eight-gaps': with_gaps,
    'gpu': against_base,
}
"""Folder -> the families of tests of its runs."""


def families(name: str, known: runs.Runs) -> dict[str, list[Case]]:
    """Returns the families of tests of a page: title -> (first, second, column) of each."""
    if name in PLACES:
        return FAMILIES[PLACES[name][0]](known)
    pairs: list[Case] = [(*pair, 'mean') for pair in PAIRS]
    return against_base(known, 'logistic', 'complete') | {'Pairs of rows': pairs}


def page(found: dict[str, list[tuple[runs.Runs, Case]]], names: Sequence[str] = ()) -> str:
    """Returns the tables of some families as Markdown.

    Args:
        found: Title -> the runs and what is compared, for each test.
        names: As of `family`.
    """
    lines = []
    for title, tested in found.items():
        units = {k.metric: f'{"higher" if k.higher else "lower"} is better' for k, _ in tested}
        unit = next(iter(units)) if len(units) == 1 else 'points'
        how = f', {"; ".join(f"{name}: {told}" for name, told in sorted(units.items()))}'
        told = f'{unit} in points, {units[unit]}' if unit in units else f'points of the metric{how}'
        tests = 'tests' if len(tested) > 1 else 'test'
        lines += [f'**{title}** ({told}; {len(tested)} {tests})', '']
        lines += [f'| difference | column | {unit} | 95 % interval | p (Holm) | proven |']
        lines += ['| --- | --- | ---: | ---: | ---: | --- |']
        lines += [f'| {" | ".join(row)} |' for row in family(tested, names)]
        lines += ['']
    return '\n'.join(lines)


def made(name: str) -> str:
    """Returns the tables of a page of comparisons."""
    if name in RATES:
        known = rates(name)
        cases = rate_cases(known)
        order = '/'.join(next(iter(known.values())).records[0]['dataset']['modalities'])
        title = f'Differences by missing rate of {order}'
        names = [f'{rate} % missing, ' for rate, _ in cases]
        return page({title: [(known[rate], case) for rate, case in cases]}, names)
    if name == 'digits':
        tested = digits()
        names = [f'{known.data["options"]["train"]:,} samples, ' for known, _ in tested]
        return page({'Networks of width 16 against logistic regression': tested}, names)
    if name == 'repeated':
        names = [f'{data}, {train:,} samples, width {width}, ' for data, train, width in REPEATED]
        both = {'With all seeds': repeated(), 'On the new seeds alone': repeated(new=True)}
        return page(both, names)
    rows = rows_of(name)
    found = {t: [(rows, case) for case in cases] for t, cases in families(name, rows).items()}
    if name in NEW:
        found['On the new seeds alone'] = on_new_seeds(name)
    return page(found)


def digits() -> list[tuple[runs.Runs, Case]]:
    """Returns the tests of the networks of width 16 on the digits, fewest samples first."""
    blocks = [b for b in gathered('digits', 'digits') if b.data['options']['width'] == 16]
    order = sorted(blocks, key=lambda known: known.data['options']['train'])
    return [(known, (label, 'logistic', 'mean')) for known in order for label in DIGITS]


def repeated(new: bool = False) -> list[tuple[runs.Runs, Case]]:
    """Returns what `REPEATED` says, on all seeds or on the new ones alone."""
    found = []
    for (dataset, *setting), (seeds, case) in REPEATED.items():
        for known in gathered('repeated', dataset, seeds if new else ()):
            options = known.data['options']
            if [options['train'], options['width']] == setting:
                found.append((known, case))
    return found


def on_new_seeds(name: str) -> list[tuple[runs.Runs, Case]]:
    """Returns what `NEW` says of a page: rows against modality dropout, on the new seeds alone."""
    known = {seeds: rows_of(name, seeds) for seeds in NEW[name]}
    return [(known[s], (row, BASE, 'mean')) for s, rows in NEW[name].items() for row in rows]


if __name__ == '__main__':
    pages = {'search': search()} | {f'machines_{name}': machines(name) for name in REFERENCE}
    pages |= {name: made(name) for name in (*REFERENCE, *RATES, *PLACES, 'repeated', 'digits')}
    for name, text in pages.items():
        (ROOT / 'docs/comparisons' / f'{name}.md').write_text(text, encoding='utf-8')
