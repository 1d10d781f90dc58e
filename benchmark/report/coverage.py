"""What the summaries of a table are over, in words, where not all subsets were tested."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from benchmark.records.metrics import nanmean
from benchmark.report import sampling
from benchmark.report.runs import Runs
from benchmark.tested import is_sample


def every(runs: Runs) -> int:
    """Returns the number of all subsets of the modalities."""
    return int(2 ** len(runs.data['modalities']) - 1)


def worst(runs: Runs) -> str:
    """Says what the column 'worst' holds for a seed."""
    kind = 'worst tested' if runs.which else 'worst'
    return f'the score of its {kind} subset, which may differ between seeds'


def mean(runs: Runs) -> str:
    """Says what the column 'mean' holds for a seed."""
    if is_sample(runs.which):
        return (
            f'mean is an estimate of the mean over all {every(runs):,} subsets from a sample of '
            f'{len(runs.subsets)}'
        )
    if runs.which and len(runs.subsets) == 1:
        return f'mean is the score on the one that is listed of all {every(runs):,} subsets'
    if runs.which:
        return f'mean is over the {len(runs.subsets)} listed of all {every(runs):,} subsets'
    return 'mean is over the subsets'


def told(runs: Runs) -> list[str]:
    """Returns sentences on the subsets that were tested; none if these are all."""
    if not is_sample(runs.which):
        return []
    count = len(runs.data['modalities'])
    by_size = Counter(subset.count('+') + 1 for subset in runs.subsets)
    others = {by_size[size] for size in range(2, count - 1)}
    span = ' to '.join(map(str, dict.fromkeys((min(others), max(others)))))
    sentences = [
        'The tested subsets are the complete set, each modality alone, each subset that lacks one '
        f'modality, and a random sample of {span} of every other number of modalities; the mean '
        'is weighted by how many subsets of each number there are.'
    ]
    if words := _span(runs):
        sentences.append(
            f'By the choice of the subsets, the 95 % interval of the mean is {words}. All '
            'rows share the subsets, and differences are tested on these.'
        )
    return sentences


def notes(runs: Runs) -> list[str]:
    """Returns a line for the terminal on what the mean is; none if all subsets were tested."""
    if not runs.which:
        return []
    words = _span(runs) if is_sample(runs.which) else ''
    return [mean(runs) + (f' ({words} by the choice of subsets, 95 %)' if words else '')]


def _span(runs: Runs) -> str:
    """Returns the smallest and the largest `reach` of the rows in words, '' if none is known."""
    unit, found = runs.printed, [reach(runs, members) for members in runs.groups.values()]
    known = [unit.text(value) for value in sorted(found) if not math.isnan(value)]
    words = ' to '.join(f'±{text}' for text in dict.fromkeys(known[:1] + known[-1:]))
    return f'{words} {unit.points}'.rstrip() if words else ''


def reach(runs: Runs, members: Sequence[int]) -> float:
    """Returns half the 95 % interval of a row's estimated mean by the choice of the subsets."""
    values = nanmean(runs.values[list(members), : len(runs.subsets)].T)
    sizes = np.array([subset.count('+') + 1 for subset in runs.subsets])
    return sampling.reach(values, sizes, len(runs.data['modalities']))


def facts(runs: Runs, members: Sequence[int]) -> dict[str, float | str]:
    """Returns what the CSV file tells of the tested subsets; nothing if these are all."""
    if not runs.which:
        return {}
    found: dict[str, float | str] = {
        'subsets_tested': len(runs.subsets),
        'subsets_in_all': every(runs),
    }
    if is_sample(runs.which):
        found['mean_reach_of_subsets'] = runs.printed.factor * reach(runs, members)
    return found
