"""The runs of one protocol side by side, checked against their outcomes, and who is ahead."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.missing import subset_ids
from benchmark.records import metrics
from benchmark.records.schema import Outcomes, Record, RecordError, scores_in, test_scores
from benchmark.report import statistics
from benchmark.report.layout import Mark

ALPHA = 0.05
"""Level of significance, after Holm's correction over the columns."""

TOLERANCE = 1e-5
"""A recorded score may differ so much from that of its outcomes: float32 sums of pixels."""


@dataclass(frozen=True)
class Runs:
    """The finished runs that may be compared with each other.

    Attributes:
        records: Their records.
        counts: Per run (N, S, C) what each test sample adds to the metric, None without outcomes.
        groups: Row label -> indices of its runs, one per seed.
        subsets: The S subsets that some run was tested on.
        columns: The subsets, then 'mean', 'worst', 'missing_0', ...
        values: (runs, columns) scores, NaN where not tested; summaries over what was.
        metric: The metric of the scores.
        higher: Whether higher is better.
    """

    records: list[Record]
    counts: list[np.ndarray | None]
    groups: dict[str, list[int]]
    subsets: list[str]
    columns: list[str]
    values: np.ndarray
    metric: str
    higher: bool

    @property
    def main(self) -> bool:
        """Whether the scores are the dataset's own metric, whose differences can be tested."""
        return self.metric == self.records[0]['dataset']['metric']

    def summarised(self, scores: Mapping[str, float | None]) -> np.ndarray:
        """Returns the columns of a row that has one score per subset; no summary if one lacks."""
        values = np.array([np.nan if scores[s] is None else scores[s] for s in self.subsets])
        row = _summarise(values, self.subsets, self.records[0], self.higher)
        if np.isnan(values).any():
            row[len(values) :] = np.nan
        return row


def verify(
    members: Sequence[Record],
    outcomes: Callable[[Record], Outcomes | None],
    problems: list[str],
    metric: str = '',
) -> Runs:
    """Gathers runs, leaving out those whose scores are not those of their outcomes.

    Args:
        members: Records of one dataset and protocol.
        outcomes: Gives a record's outcomes, or None.
        problems: Takes one line per run left out and per unusable outcomes.
        metric: The metric to show, by default the dataset's.

    Raises:
        UserError: The direction of the metric is not known.
    """
    metric = metric or members[0]['dataset']['metric']
    ids = subset_ids(members[0]['dataset']['modalities'])
    subsets = [s for s in ids if any(s in r['scores']['test'] for r in members)]
    kept, counts = [], []
    samples: np.ndarray | None = None
    for record in members:
        found = None
        try:
            found = outcomes(record)
            if found is not None:
                counted = _count(record, found, subsets)
                samples = _same_samples(found, samples, record)
        except RecordError as error:
            problems.append(str(error))
            found = None
        if found is not None and (wrong := _contradiction(record, counted, subsets)):
            problems.append(f'{_name(record)}: {wrong}; the run is left out')
            continue
        if not any(metric in scores for scores in record['scores']['test'].values()):
            problems.append(f'{_name(record)}: it holds no {metric}')
            continue
        kept.append(record)
        counts.append(None if found is None else counted)
    return _gather(kept, counts, subsets, metric)


def _count(record: Record, outcomes: Outcomes, subsets: list[str]) -> np.ndarray:
    data = record['dataset']
    try:
        tested = {
            s: metrics.contributions(outcomes, s, data['metric'], data['live'])
            for s in subsets
            if s in record['scores']['test']
        }
        blank = np.zeros_like(next(iter(tested.values())))
        return np.stack([tested.get(s, blank) for s in subsets], axis=1)
    except (KeyError, ValueError) as error:
        raise RecordError(f'{_name(record)}: outcomes do not fit the record: {error}') from None


def _same_samples(
    outcomes: Outcomes, samples: np.ndarray | None, record: Record
) -> np.ndarray | None:
    """Checks that the outcomes are of the same test samples as those before."""
    if 'target' in outcomes:
        found = outcomes['target']
    else:
        found = np.max([areas[:, 2] for areas in outcomes.values()], axis=0)
    if samples is not None and not np.array_equal(samples, found):
        raise RecordError(f'{_name(record)}: outcomes are of other test samples than those before')
    return found


def _contradiction(record: Record, counted: np.ndarray, subsets: list[str]) -> str:
    metric = record['dataset']['metric']
    for subset, value in zip(subsets, metrics.score(counted.sum(0), metric), strict=True):
        recorded = test_scores(record).get(subset, value)
        if abs(recorded - value) > TOLERANCE:
            return f'{metric} of {subset} is {recorded:.6f} in the record, {value:.6f} by outcomes'
    return ''


def _name(record: Record) -> str:
    return f'{record["method"]["label"]} {record["protocol_id"]} seed {record["seed"]}'


def _gather(
    kept: list[Record], counts: list[np.ndarray | None], subsets: list[str], metric: str
) -> Runs:
    if not kept:
        return Runs([], [], {}, subsets, [], np.empty((0, 0)), metric, True)
    data = kept[0]['dataset']
    own = metric == data['metric']
    higher = data['higher_is_better'] if own else metrics.higher_is_better(metric)
    values = np.array([[scores_in(r, metric).get(s, np.nan) for s in subsets] for r in kept])
    missing = [f'missing_{k}' for k in range(len(data['modalities']))]
    columns = [*subsets, 'mean', 'worst', *missing]
    return Runs(
        records=kept,
        # What outcomes add up to is the dataset's own metric alone.
        counts=counts if own else [None] * len(kept),
        groups=_groups(kept),
        subsets=subsets,
        columns=columns,
        values=_summarise(values, subsets, kept[0], higher),
        metric=metric,
        higher=higher,
    )


def _summarise(values: np.ndarray, subsets: list[str], record: Record, higher: bool) -> np.ndarray:
    sizes = np.array([s.count('+') + 1 for s in subsets])
    return statistics.with_summaries(values, sizes, len(record['dataset']['modalities']), higher)


def _groups(kept: list[Record]) -> dict[str, list[int]]:
    """Groups the seeds of a method variant; variants that share a label get it completed."""
    variants: dict[str, list[int]] = {}
    for i, record in enumerate(kept):
        variants.setdefault(json.dumps(_variant(record), sort_keys=True), []).append(i)
    labelled: dict[str, list[list[int]]] = {}
    for runs in variants.values():
        labelled.setdefault(kept[runs[0]]['method']['label'], []).append(runs)
    groups = {}
    for label, twins in sorted(labelled.items()):
        facts = [_variant(kept[runs[0]]) for runs in twins]
        for runs, own in zip(twins, facts, strict=True):
            differing = [
                f'{key}={value}'
                for key, value in own.items()
                if any(other.get(key) != value for other in facts)
            ]
            groups[f'{label} ({", ".join(differing)})' if differing else label] = runs
    return groups


def _variant(record: Record) -> dict[str, Any]:
    method = record['method']
    facts = {'method': method['name'], 'version': method['version'], **method['options']}
    if 'tuning' in record:
        # A search may end at the untuned setting, and is another row nevertheless.
        search = record['tuning']
        facts |= {'trials': search['trials'], 'searched': search['space']}
    return facts


def marks(runs: Runs, columns: Sequence[int]) -> dict[str, dict[int, Mark]]:
    """Returns row label -> column -> mark, for those ahead by a significant difference.

    The best is marked where it differs from the second, the second where it differs from the
    third; each of the two families is corrected over the columns.

    Args:
        runs: The runs of a block.
        columns: Indices of the columns that are shown.
    """
    there = [i for i, counts in enumerate(runs.counts) if counts is not None]
    if len(runs.groups) < 2 or not there:
        return {}
    drawn = np.full((statistics.REPLICATES, *runs.values.shape), np.nan)
    resampled = statistics.resample([c for c in runs.counts if c is not None], runs.metric)
    drawn[:, there] = _summarise(resampled, runs.subsets, runs.records[0], runs.higher)
    found: dict[str, dict[int, Mark]] = {}
    names: tuple[Mark, Mark] = ('best', 'second')
    for place, mark in enumerate(names):
        tested = dict(_compare_places(runs, drawn, columns, place))
        adjusted = statistics.holm([p for _, p in tested.values()])
        for (column, (label, _)), p in zip(tested.items(), adjusted, strict=True):
            if p < ALPHA:
                found.setdefault(label, {})[column] = mark
    return found


def _compare_places(
    runs: Runs, drawn: np.ndarray, columns: Sequence[int], place: int
) -> Iterator[tuple[int, tuple[str, float]]]:
    """Yields column -> (label at a place, p-value against the next), where it can be tested."""
    for column in columns:
        order = _order(runs, column)
        if len(order) < place + 2:
            continue
        ahead, behind = (_by_seed(runs, label) for label in order[place : place + 2])
        shared = sorted(ahead.keys() & behind.keys())
        a, b = [ahead[k] for k in shared], [behind[k] for k in shared]
        if not shared or any(runs.counts[i] is None for i in a + b):
            continue
        values = runs.values[:, column]
        p = statistics.compare(values[a], values[b], drawn[:, a, column], drawn[:, b, column]).p
        yield column, (order[place], 1.0 if np.isnan(p) else p)


def _order(runs: Runs, column: int) -> list[str]:
    """Ranks the rows in a column; a summary over fewer subsets than another's has no rank."""
    needed = list(range(len(runs.subsets))) if column >= len(runs.subsets) else [column]
    means = {
        label: runs.values[members, column].mean()
        for label, members in runs.groups.items()
        if not np.isnan(runs.values[np.ix_(members, needed)]).any()
    }
    return sorted(means, key=means.__getitem__, reverse=runs.higher)


def _by_seed(runs: Runs, label: str) -> dict[int, int]:
    return {runs.records[i]['seed']: i for i in runs.groups[label]}
