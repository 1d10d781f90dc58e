"""Tests differences between the reference rows: python docs/comparisons.py.

Writes `docs/comparisons/<data set>.md`, which the page of results includes. The tests are those of
the tables (`benchmark.report.comparison`); here every row is compared with modality dropout, and
some rows with each other, where a table compares neighbours in the order of the scores alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path[0] = str(ROOT)

from benchmark.records import store  # noqa: E402
from benchmark.report import comparison, runs  # noqa: E402

BASE = 'modality_dropout'

PAIRS = {
    'synth_faces': [
        ('mmin', 'mmanet'),
        ('mmin', 'rfnet'),
        ('mmanet', 'rfnet'),
        ('mmanet', 'mmanet:alpha=0'),
        ('mmanet', 'mmanet:variant=official'),
        ('mmanet', 'distilled'),
        ('customized', 'complete'),
        ('mmin', 'mmin:cycle=2,imagination=4'),
        ('redcore', 'redcore:imagination=0.15,kl=0.0008,rate=0.1'),
        ('uhved', 'uhved:divergence=0.1,reconstruction=0.1'),
    ],
    'synth_rooms': [
        ('mmin', 'mmanet'),
        ('mmin', 'rfnet'),
        ('mmanet', 'rfnet'),
        ('mmanet', 'distilled'),
        ('customized', 'complete'),
    ],
}
"""Data set -> pairs of rows that the text of the results speaks of."""


def reference(dataset: str) -> runs.Runs:
    """Returns the reference runs of a data set."""
    found = store.scan(ROOT / 'results/reference/runs' / dataset).complete
    files = {record['identity']: path.with_name(store.OUTCOMES) for path, record in found.items()}
    (gathered,) = runs.gather(
        found.values(), lambda record: store.read_outcomes(files[record['identity']]), []
    )
    return gathered


def family(known: runs.Runs, cases: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Returns a row per (first, second, column), with p-values corrected over all of them."""
    found = [known.standings.compare(*case) for case in cases]
    adjusted = comparison.holm([c.p for c in found])
    return [
        [
            f'`{first}` - `{second}`',
            column,
            f'{100 * c.difference:+.2f}',
            f'{100 * c.low:+.2f} to {100 * c.high:+.2f}',
            comparison.p_text(p),
            'yes' if p < comparison.LEVEL else 'no',
        ]
        for (first, second, column), c, p in zip(cases, found, adjusted, strict=True)
    ]


def families(dataset: str, known: runs.Runs) -> dict[str, list[tuple[str, str, str]]]:
    """Returns the families of tests of a data set: title -> (first, second, column) of each."""
    others = [label for label in known.groups if label != BASE]
    return {
        f'Every row against `{BASE}`': [(label, BASE, 'mean') for label in others],
        f'`complete` against `{BASE}`, by subset': [
            ('complete', BASE, column) for column in known.subsets
        ],
        'Pairs of rows': [(*pair, 'mean') for pair in PAIRS[dataset]],
    }


def page(dataset: str) -> str:
    """Returns the three tables of a data set as Markdown."""
    known = reference(dataset)
    lines = []
    unit, arrow = known.metric, 'higher' if known.higher else 'lower'
    for title, cases in families(dataset, known).items():
        lines += [f'**{title}** ({unit} in points, {arrow} is better; {len(cases)} tests)', '']
        lines += [f'| difference | column | {unit} | 95 % interval | p (Holm) | proven |']
        lines += ['| --- | --- | ---: | ---: | ---: | --- |']
        lines += [f'| {" | ".join(row)} |' for row in family(known, cases)]
        lines += ['']
    return '\n'.join(lines)


if __name__ == '__main__':
    for name in PAIRS:
        (ROOT / 'docs/comparisons' / f'{name}.md').write_text(page(name), encoding='utf-8')
