"""The rows that were trained on a CPU and on a GPU, side by side, which `comparisons.py` writes."""

from __future__ import annotations

import functools

import numpy as np
from scipy.stats import spearmanr

from docs.committed import gathered, rows_of


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
