"""Tests differences between committed rows: python docs/comparisons.py.

Writes the tables in `docs/comparisons/` that the page of results includes. The tests are those of
the tables of results (`benchmark.report.comparison`), which compare neighbours in the order of the
scores; here the rows are compared with modality dropout, and some with each other.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
from scipy.stats import spearmanr  # noqa: E402

from benchmark.engine import grids, values  # noqa: E402
from benchmark.options import Spec  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.registry import discover  # noqa: E402
from benchmark.report import comparison, runs  # noqa: E402
from docs.searches import search  # noqa: E402

BASE = 'modality_dropout'

REFERENCE = ('synth_faces', 'synth_rooms')
"""The data sets of the reference, each with a page of its own name."""

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


PLACES = {
    'ablation_faces': ('ablation', 'synth_faces'),
    'ablation_rooms': ('ablation', 'synth_rooms'),
    'fusion': ('fusion', 'synth_faces'),
    'gpu_faces': ('gpu', 'synth_faces'),
    'gpu_rooms': ('gpu', 'synth_rooms'),
    'variants_faces': ('variants', 'synth_faces'),
    'variants_rooms': ('variants', 'synth_rooms'),
    'untuned_faces': ('reference+variants', 'synth_faces'),
    'untuned_rooms': ('reference+variants', 'synth_rooms'),
    'eight_faces': ('eight', 'synth_faces'),
    'eight_rooms': ('eight', 'synth_rooms'),
}
"""Page -> the folder in `results/`, or two of them, and the data set of its rows.

All rows of a page have one protocol.
"""

MASKED = {'gated': 'fusion'}
"""Operator -> the label of its row, where it is not `fusion:fusion=<operator>`."""
LATE = 'late_fusion', 'late_fusion:combine=product', 'late_fusion:combine=learned'
"""The rows of late fusion, one for each rule."""

Case = tuple[str, str, str]


def gathered(folder: str, dataset: str) -> list[runs.Runs]:
    """Returns the committed runs of a data set in folders of results, one for each protocol.

    Runs that two of the folders hold count once.
    """
    once: dict[str, tuple[Path, dict]] = {}
    for name in folder.split('+'):
        for path, record in store.scan(ROOT / 'results' / name / 'runs' / dataset).complete.items():
            once.setdefault(record['identity'], (path, record))
    found = dict(once.values())
    files = {record['identity']: path.with_name(store.OUTCOMES) for path, record in found.items()}
    return runs.gather(
        found.values(), lambda record: store.read_outcomes(files[record['identity']]), []
    )


def rows_of(name: str) -> runs.Runs:
    """Returns the runs of a page, whose name is that of a data set for its reference."""
    (known,) = gathered(*PLACES.get(name, ('reference', name)))
    return known


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


def rates() -> dict[str, runs.Runs]:
    """Returns the runs of RedCore's rates: missing rate in training -> its runs."""
    found = {}
    for known in gathered('rates', 'synth_faces'):
        rate = known.records[0]['gaps']['rates']
        (one,) = set(rate.values())
        found[f'{one:g}'] = known
    return dict(sorted(found.items(), key=lambda item: float(item[0])))


def rate_cases(known: dict[str, runs.Runs]) -> list[tuple[str, Case]]:
    """Returns the tests between the rows of RedCore's grid: (missing rate, what is compared)."""
    pairs = ('redcore', BASE), ('redcore:rate=0', BASE), ('redcore', 'redcore:rate=0')
    return [(rate, (*pair, 'mean')) for rate in known for pair in pairs]


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


FAMILIES = {
    'ablation': ablation,
    'fusion': fusion,
    'variants': variants,
    'reference+variants': untuned,
    'eight': against_base,
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
        known = tested[0][0]
        unit, arrow = known.metric, 'higher' if known.higher else 'lower'
        tests = 'tests' if len(tested) > 1 else 'test'
        lines += [f'**{title}** ({unit} in points, {arrow} is better; {len(tested)} {tests})', '']
        lines += [f'| difference | column | {unit} | 95 % interval | p (Holm) | proven |']
        lines += ['| --- | --- | ---: | ---: | ---: | --- |']
        lines += [f'| {" | ".join(row)} |' for row in family(tested, names)]
        lines += ['']
    return '\n'.join(lines)


def made(name: str) -> str:
    """Returns the tables of a page of comparisons."""
    if name == 'rates':
        known = rates()
        cases = rate_cases(known)
        title = 'RedCore and equal supervision by missing rate'
        names = [f'{100 * float(rate):.0f} % missing, ' for rate, _ in cases]
        return page({title: [(known[rate], case) for rate, case in cases]}, names)
    rows = rows_of(name)
    found = families(name, rows).items()
    return page({title: [(rows, case) for case in cases] for title, cases in found})


@functools.cache
def beside(dataset: str) -> dict[str, list[np.ndarray]]:
    """Returns the rows that were trained on both machines: label -> their means over subsets.

    Args:
        dataset: The data set.

    Returns:
        For each label the scores on the CPU and on the GPU, one for each seed, in percent. A row
        is left out if its seeds, its options or the version of its method differ.
    """
    (gpu,) = gathered('gpu', dataset)
    machines, found = (rows_of(dataset), gpu), {}
    for label in (label for label in machines[0].groups if label in gpu.groups):
        records = [[known.records[i] for i in known.groups[label]] for known in machines]
        same = [
            [(r['seed'], r['method']['version'], r['method']['options']) for r in row]
            for row in records
        ]
        if same[0] == same[1]:
            at = [[*known.columns].index('mean') for known in machines]
            pairs = zip(machines, at, strict=True)
            found[label] = [100 * known.values[known.groups[label], k] for known, k in pairs]
    return found


def ranked_alike(dataset: str) -> float:
    """Returns Spearman's rank correlation between the means of the rows on both machines."""
    means = np.array([[scores.mean() for scores in row] for row in beside(dataset).values()])
    return float(spearmanr(*means.T).statistic)


def machines(dataset: str) -> str:
    """Returns the rows that were trained on a CPU and on a GPU as a Markdown table."""
    lines = ['| row | CPU | GPU | GPU - CPU |', '| --- | ---: | ---: | ---: |']
    for label, row in beside(dataset).items():
        cells = [f'{scores.mean():.2f} ± {scores.std(ddof=1):.2f}' for scores in row]
        difference = row[1].mean() - row[0].mean()
        lines.append(f'| `{label}` | {" | ".join(cells)} | {difference:+.2f} |')
    return '\n'.join([*lines, ''])


if __name__ == '__main__':
    pages = {'search': search()} | {f'machines_{name}': machines(name) for name in REFERENCE}
    pages |= {name: made(name) for name in (*REFERENCE, 'rates', *PLACES)}
    for name, text in pages.items():
        (ROOT / 'docs/comparisons' / f'{name}.md').write_text(text, encoding='utf-8')
