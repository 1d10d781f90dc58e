"""Tests differences between the reference rows: python docs/comparisons.py.

Writes `docs/comparisons/<data set>.md`, which the page of results includes. The tests are those of
the tables (`benchmark.report.statistics`); here every row is compared with modality dropout, and
some rows with each other, where a table compares neighbours in the order of the scores alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from benchmark.missing import subset_ids  # noqa: E402
from benchmark.records import metrics, store  # noqa: E402
from benchmark.report import statistics  # noqa: E402

BASE = 'modality_dropout'
ALPHA = 0.05

PAIRS = {
    'synth_faces': [
        ('mmin', 'mmanet'),
        ('mmin', 'rfnet'),
        ('mmanet', 'mmanet:alpha=0'),
        ('mmanet', 'mmanet:alpha=1'),
        ('mmanet', 'mmanet:variant=official'),
        ('mmanet', 'distilled'),
        ('customized', 'complete'),
        ('mmanet', 'mmanet (tuned 4)'),
    ],
    'synth_rooms': [
        ('mmin', 'mmanet'),
        ('mmin', 'rfnet'),
        ('mmin', 'shaspec'),
        ('mmanet', 'mmanet:alpha=0'),
        ('mmanet', 'mmanet:variant=official'),
        ('mmanet', 'distilled'),
        ('customized', 'complete'),
    ],
}
"""Data set -> pairs of rows that the text of the results speaks of."""


def _records(dataset: str) -> dict[Path, store.Record]:
    """Returns the reference records and those of the same protocol that lie beside them."""
    found = store.scan(ROOT / 'results/reference/runs' / dataset).complete
    protocol = next(iter(found.values()))['protocol_id']
    beside = store.scan(ROOT / 'results/extra/runs' / dataset).complete
    return found | {path: r for path, r in beside.items() if r['protocol_id'] == protocol}


class Scores:
    """The scores of a data set's reference runs, as measured and on resampled test samples.

    Args:
        dataset: Name of the data set.

    Attributes:
        rows: Label -> seed -> index of the run.
        columns: The subsets, then 'mean'.
        values: (runs, columns) the metric.
        drawn: (R, runs, columns) the metric on resampled test samples.
    """

    def __init__(self, dataset: str) -> None:
        self.rows: dict[str, dict[int, int]] = {}
        counts = []
        for path, record in sorted(_records(dataset).items()):
            data = record['dataset']
            outcomes = store.read_outcomes(path.with_name('outcomes.npz'))
            subsets = subset_ids(data['modalities'])
            self.metric, self.higher = data['metric'], data['higher_is_better']
            each = [metrics.contributions(outcomes, s, self.metric, data['live']) for s in subsets]
            self.rows.setdefault(record['method']['label'], {})[record['seed']] = len(counts)
            counts.append(np.stack(each, axis=1))
        self.columns = [*subsets, 'mean']
        self.values = self._with_mean(
            np.stack([metrics.score(c.sum(0), self.metric) for c in counts])
        )
        self.drawn = self._with_mean(statistics.resample(counts, self.metric))

    @staticmethod
    def _with_mean(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values, values.mean(-1, keepdims=True)], axis=-1)

    def compare(self, first: str, second: str, column: str) -> statistics.Comparison:
        """Compares two rows in a column, over the seeds that both have."""
        k, shared = self.columns.index(column), sorted(self.rows[first].keys() & self.rows[second])
        a, b = ([self.rows[label][seed] for seed in shared] for label in (first, second))
        v, d = self.values[:, k], self.drawn[:, :, k]
        return statistics.compare(v[a], v[b], d[:, a], d[:, b])


def family(scores: Scores, cases: Sequence[tuple[str, str, str]]) -> list[list[str]]:
    """Returns a row per (first, second, column), with p-values corrected over all of them."""
    found = [scores.compare(*case) for case in cases]
    adjusted = statistics.holm([c.p for c in found])
    return [
        [
            f'`{first}` - `{second}`',
            column,
            f'{100 * c.difference:+.2f}',
            f'{100 * c.low:+.2f} to {100 * c.high:+.2f}',
            f'{p:.3f}',
            'yes' if p < ALPHA else 'no',
        ]
        for (first, second, column), c, p in zip(cases, found, adjusted, strict=True)
    ]


def page(dataset: str) -> str:
    """Returns the three tables of a data set as Markdown."""
    scores = Scores(dataset)
    others = [label for label in scores.rows if label != BASE]
    families = {
        f'Every row against `{BASE}`': [(label, BASE, 'mean') for label in others],
        f'`complete` against `{BASE}`, by subset': [
            ('complete', BASE, column) for column in scores.columns[:-1]
        ],
        'Pairs of rows': [(*pair, 'mean') for pair in PAIRS[dataset]],
    }
    lines = []
    unit, arrow = scores.metric, 'higher' if scores.higher else 'lower'
    for title, cases in families.items():
        lines += [f'**{title}** ({unit} in points, {arrow} is better; {len(cases)} tests)', '']
        lines += [f'| difference | column | {unit} | 95 % interval | p (Holm) | proven |']
        lines += ['| --- | --- | ---: | ---: | ---: | --- |']
        lines += [f'| {" | ".join(row)} |' for row in family(scores, cases)]
        lines += ['']
    return '\n'.join(lines)


if __name__ == '__main__':
    for name in PAIRS:
        (ROOT / 'docs/comparisons' / f'{name}.md').write_text(page(name), encoding='utf-8')
