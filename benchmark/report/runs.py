"""The runs of one protocol side by side, checked against their outcomes, and the best of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from benchmark.errors import UserError
from benchmark.missing import subset_ids
from benchmark.records import metrics
from benchmark.records.schema import (
    DatasetInfo,
    Outcomes,
    Record,
    RecordError,
    scores_in,
    test_scores,
)
from benchmark.report import statistics

Loader = Callable[[Record], Outcomes | None]
"""Returns the outcomes of a record's run, or None if they are not at hand."""

Mark = Literal['', 'best', 'second']

ALPHA = 0.05
"""Level of significance, after Holm's correction over the columns."""

TOLERANCE = 1e-5
"""Largest difference of a recorded score from that of its outcomes: sums of pixels are float32."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of one protocol on the same data; only such runs may be compared.

    Attributes:
        key: The protocol's id, and the fingerprint of the data where the protocol has several.
        records: The records of the runs.
        contributions: Per run (N, S, C) the contributions of N test samples to the metric, or None
            if they are not known.
        subsets: The S subsets that some run was tested on.
        titles: Id -> title of the columns to show, which are some of `columns`.
        metric: The metric of the scores.
        higher: Whether a higher score is better.
    """

    key: str
    records: list[Record]
    contributions: list[np.ndarray | None]
    subsets: list[str]
    titles: dict[str, str]
    metric: str
    higher: bool

    @property
    def data(self) -> DatasetInfo:
        """The data set, whose description all records share."""
        return self.records[0]['dataset']

    @property
    def main(self) -> bool:
        """Whether the metric is the data set's own: only its differences can be tested."""
        return self.metric == self.data['metric']

    @property
    def columns(self) -> list[str]:
        """The ids of all columns: the subsets, then 'mean', 'worst', 'missing_0', ..."""
        return [*self.subsets, *_summaries(self.data)]

    @cached_property
    def values(self) -> np.ndarray:
        """(runs, columns) scores, NaN where not tested; summaries are over what was tested."""
        scores = [scores_in(record, self.metric) for record in self.records]
        return self.summarise(np.array([[s.get(k, np.nan) for k in self.subsets] for s in scores]))

    @cached_property
    def groups(self) -> dict[str, list[int]]:
        """Row label -> indices of its runs, one per seed."""
        return _groups(self.records)

    @cached_property
    def seeds(self) -> int:
        """The number of seeds of the rows that have most."""
        return max(map(len, self.groups.values()))

    @cached_property
    def marks(self) -> dict[str, dict[str, Mark]]:
        """Row label -> column id -> mark, of the rows whose advantage is significant."""
        return _marks(self)

    def summarise(self, values: np.ndarray) -> np.ndarray:
        """Appends the summaries to scores of subsets: (..., S) -> (..., columns)."""
        sizes = np.array([s.count('+') + 1 for s in self.subsets])
        return statistics.with_summaries(values, sizes, len(self.data['modalities']), self.higher)

    def summarised(self, scores: Mapping[str, float | None]) -> dict[str, float]:
        """Returns column id -> score of a row that does not stem from runs.

        Args:
            scores: Subset id -> score. If one lacks, no summary is given.
        """
        given = [scores.get(subset) for subset in self.subsets]
        row = self.summarise(np.array(given, dtype=float))
        if None in given:
            row[len(given) :] = np.nan
        return dict(zip(self.columns, row.tolist(), strict=True))


def gather(
    complete: Iterable[Record],
    outcomes: Loader,
    problems: list[str],
    metric: str = '',
    titles: Mapping[str, str] | None = None,
) -> list[Runs]:
    """Puts the runs of each protocol side by side, less those that contradict their outcomes.

    Args:
        complete: Records of one data set.
        outcomes: Returns the outcomes of a record's run.
        problems: Takes one line for each run left out and for each unusable file of outcomes.
        metric: The metric to show, by default the data set's own.
        titles: Subset id -> column title of the subsets to show, by default all.

    Raises:
        UserError: The metric's direction is not known, or a subset of `titles` was not tested.
    """
    members: dict[tuple[str, str], list[Record]] = {}
    for record in complete:
        found = record['protocol_id'], record['dataset']['fingerprint']
        members.setdefault(found, []).append(record)
    gathered = []
    for (protocol, fingerprint), records in sorted(members.items()):
        several = sum(other == protocol for other, _ in members) > 1
        key = f'{protocol}@{fingerprint}' if several else protocol
        shown, data = metric or records[0]['dataset']['metric'], records[0]['dataset']
        own = shown == data['metric']
        subsets = [
            subset
            for subset in subset_ids(data['modalities'])
            if any(subset in record['scores']['test'] for record in records)
        ]
        kept = list(_verified(records, outcomes, subsets, shown, problems))
        if kept:
            runs = Runs(
                key=key,
                records=[record for record, _ in kept],
                # Outcomes tell what samples contribute to the data set's own metric alone.
                contributions=[added if own else None for _, added in kept],
                subsets=subsets,
                titles=_titles(subsets, data, titles),
                metric=shown,
                higher=data['higher_is_better'] if own else metrics.higher_is_better(shown),
            )
            gathered.append(runs)
    return gathered


def _summaries(data: DatasetInfo) -> list[str]:
    return ['mean', 'worst', *(f'missing_{k}' for k in range(len(data['modalities'])))]


def _titles(
    subsets: Sequence[str], data: DatasetInfo, given: Mapping[str, str] | None
) -> dict[str, str]:
    for subset in given or {}:
        if subset not in subsets:
            raise UserError(f'columns: no subset {subset!r} (tested: {", ".join(subsets)})')
    shown = dict(given) if given else {subset: subset for subset in subsets}
    return shown | {key: key.replace('_', ' ') for key in _summaries(data)}


def _verified(
    records: Sequence[Record],
    outcomes: Loader,
    subsets: Sequence[str],
    metric: str,
    problems: list[str],
) -> Iterator[tuple[Record, np.ndarray | None]]:
    """Yields each run that counts with the contributions of its samples, if these are known."""
    samples: np.ndarray | None = None
    for record in records:
        added, wrong = None, ''
        try:
            found = outcomes(record)
            if found is not None:
                added = _contributions(record, found, subsets)
                samples = _same_samples(record, found, samples)
                wrong = _contradiction(record, added, subsets)
        except RecordError as error:
            problems.append(str(error))
            added = None
        if not wrong and not any(metric in s for s in record['scores']['test'].values()):
            wrong = f'it holds no {metric}'
        if wrong:
            problems.append(f'{_name(record)}: {wrong}')
        else:
            yield record, added


def _name(record: Record) -> str:
    return f'{record["method"]["label"]} {record["protocol_id"]} seed {record["seed"]}'


def _contributions(record: Record, outcomes: Outcomes, subsets: Sequence[str]) -> np.ndarray:
    """Returns the (N, S, C) contributions of the test samples to the data set's own metric."""
    data, tested = record['dataset'], record['scores']['test']
    try:
        by_subset = {
            subset: metrics.contributions(outcomes, subset, data['metric'], data['live'])
            for subset in subsets
            if subset in tested
        }
        blank = np.zeros_like(next(iter(by_subset.values())))
        return np.stack([by_subset.get(subset, blank) for subset in subsets], axis=1)
    except (KeyError, ValueError) as error:
        raise RecordError(f'{_name(record)}: outcomes do not fit the record: {error}') from None


def _same_samples(record: Record, outcomes: Outcomes, samples: np.ndarray | None) -> np.ndarray:
    """Returns the labels, once it is checked that they are those of the runs before."""
    if 'target' in outcomes:
        found = outcomes['target']
    else:
        found = np.max([areas[:, 2] for areas in outcomes.values()], axis=0)
    if samples is not None and not np.array_equal(samples, found):
        raise RecordError(f'{_name(record)}: outcomes are of other test samples than those before')
    return found


def _contradiction(record: Record, added: np.ndarray, subsets: Sequence[str]) -> str:
    metric, scores = record['dataset']['metric'], test_scores(record)
    for subset, value in zip(subsets, metrics.score(added.sum(0), metric), strict=True):
        recorded = scores.get(subset, value)
        if abs(recorded - value) > TOLERANCE:
            return (
                f'{metric} of {subset} is {recorded:.6f} in the record, {value:.6f} by outcomes; '
                'the run is left out'
            )
    return ''


def _groups(records: Sequence[Record]) -> dict[str, list[int]]:
    """Groups runs that differ in the seed alone; a label is made unique by what differs."""
    rows: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        rows.setdefault(json.dumps(_setting(record), sort_keys=True), []).append(i)
    labelled: dict[str, list[list[int]]] = {}
    for found in rows.values():
        labelled.setdefault(records[found[0]]['method']['label'], []).append(found)
    groups = {}
    for label, twins in sorted(labelled.items()):
        settings = [_setting(records[found[0]]) for found in twins]
        for found, own in zip(twins, settings, strict=True):
            differing = [k for k, v in own.items() if any(s.get(k) != v for s in settings)]
            told = ', '.join(f'{key}={own[key]}' for key in differing)
            groups[f'{label} ({told})' if told else label] = found
    return groups


def _setting(record: Record) -> dict[str, Any]:
    """Returns what makes a row of its own, beside its label."""
    method = record['method']
    setting = {'method': method['name'], 'version': method['version'], **method['options']}
    if 'tuning' in record:
        # A search may choose the untuned setting, and is a row of its own nevertheless.
        setting |= {'trials': record['tuning']['trials'], 'searched': record['tuning']['space']}
    return setting


def _marks(runs: Runs) -> dict[str, dict[str, Mark]]:
    """Marks the best where it differs from the second, and the second from the third.

    Each of the two families of tests is corrected over the columns that are shown.
    """
    known = [i for i, added in enumerate(runs.contributions) if added is not None]
    if len(runs.groups) < 2 or not known:
        return {}
    added = [c for c in runs.contributions if c is not None]
    drawn = np.full((statistics.REPLICATES, *runs.values.shape), np.nan)
    drawn[:, known] = runs.summarise(statistics.resample(added, runs.metric))
    found: dict[str, dict[str, Mark]] = {}
    names: tuple[Mark, Mark] = ('best', 'second')
    for place, mark in enumerate(names):
        tests = list(_tests(runs, drawn, place))
        adjusted = statistics.holm([p for _, _, p in tests])
        for (column, label, _), p in zip(tests, adjusted, strict=True):
            if p < ALPHA:
                found.setdefault(label, {})[column] = mark
    return found


def _tests(runs: Runs, drawn: np.ndarray, place: int) -> Iterator[tuple[str, str, float]]:
    """Yields column, label at a place, and p-value of its difference to the next, if testable."""
    for c, column in enumerate(runs.columns):
        order = _order(runs, c)
        if column not in runs.titles or len(order) < place + 2:
            continue
        ahead, behind = (
            {runs.records[i]['seed']: i for i in runs.groups[label]}
            for label in order[place : place + 2]
        )
        shared = sorted(ahead.keys() & behind.keys())
        a, b = [ahead[seed] for seed in shared], [behind[seed] for seed in shared]
        if not shared or any(runs.contributions[i] is None for i in a + b):
            continue
        values, draws = runs.values[:, c], drawn[..., c]
        p = statistics.compare(values[a], values[b], draws[:, a], draws[:, b]).p
        yield column, order[place], 1.0 if np.isnan(p) else p


def _order(runs: Runs, column: int) -> list[str]:
    """Ranks the rows in a column, best first; a summary must be over all subsets."""
    needed = list(range(len(runs.subsets))) if column >= len(runs.subsets) else [column]
    means = {
        label: runs.values[members, column].mean()
        for label, members in runs.groups.items()
        if not np.isnan(runs.values[np.ix_(members, needed)]).any()
    }
    return sorted(means, key=means.__getitem__, reverse=runs.higher)
