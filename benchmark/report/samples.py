"""The test samples that the runs of one protocol share, as their outcomes describe them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.records import metrics
from benchmark.records.repetition import unfinished
from benchmark.records.schema import Outcomes, Record, RecordError
from benchmark.report import statistics


def run_name(record: Record) -> str:
    """Returns how messages name a run: method, protocol and seed."""
    return f'{record["method"]["label"]} {record["protocol_id"]} seed {record["seed"]}'


DESCRIPTION = (
    *('kind', 'modalities', 'classes', 'regions', 'metric', 'live', 'ceiling', 'chance'),
    'samples',
)
"""Fields of a record that describe the data, and that all runs on the same data have alike."""


class Samples:
    """What is known of the test samples; each run's outcomes add to it and must agree with it.

    Attributes:
        clusters: (N,) number of the cluster of each sample, None as long as no outcomes name
            clusters. Runs of older versions do not name them; their samples are the same.
        tested: Subset id -> (N,) whether some run tested the sample on the subset.
        majority: Subset id -> share of the most frequent class, where labels are known.
    """

    def __init__(self) -> None:
        self.clusters: np.ndarray | None = None
        self.tested: dict[str, np.ndarray] = {}
        self.majority: dict[str, float] = {}
        self._labels: np.ndarray | None = None

    def add(self, record: Record, outcomes: Outcomes, subsets: Sequence[str]) -> np.ndarray:
        """Returns the (N, S, C) contributions of the samples to the data set's own metric.

        Args:
            record: The record of a run.
            outcomes: The outcomes of its test.
            subsets: The S subsets that some run was tested on; a sample contributes nothing to one
                that this run was not tested on.

        Raises:
            RecordError: The outcomes do not fit the record, or are of other samples or clusters
                than those before.
        """
        found = _contributions(record, outcomes, subsets)
        self._same_labels(record, outcomes)
        self._same_clusters(record, outcomes, len(found))
        self.majority |= statistics.majority(outcomes, subsets)
        for subset in set(subsets) & set(record['scores']['test']):
            there = metrics.tested(outcomes, subset, record['dataset']['metric'])
            self.tested[subset] = there | self.tested.get(subset, False)
        return found

    def _same_labels(self, record: Record, outcomes: Outcomes) -> None:
        if 'target' in outcomes:
            found = outcomes['target']
        else:
            # Label maps are not kept; their areas by class tell other samples apart.
            areas = [array for name, array in outcomes.items() if name.startswith('areas/')]
            found = np.max([labelled[:, 2] for labelled in areas], axis=0)
        if self._labels is not None and not np.array_equal(self._labels, found):
            raise RecordError(
                f'{run_name(record)}: outcomes are of other test samples than those before'
            )
        self._labels = found

    def _same_clusters(self, record: Record, outcomes: Outcomes, samples: int) -> None:
        if 'cluster' not in outcomes:
            return
        found = np.unique(outcomes['cluster'], return_inverse=True)[1]
        known = self.clusters
        if found.shape != (samples,) or (known is not None and not np.array_equal(found, known)):
            raise RecordError(
                f'{run_name(record)}: cluster: other clusters of samples than those before'
            )
        self.clusters = found

    def units(self, numbers: Mapping[str, int]) -> dict[str, int]:
        """Returns subset id -> the number of independent units that it was tested on.

        Args:
            numbers: Subset id -> number of samples, which are the units where no clusters are
                known.
        """
        if self.clusters is None:
            return dict(numbers)
        there = {s: self.clusters[self.tested[s]] for s in numbers if s in self.tested}
        return {s: len(np.unique(there[s])) if s in there else n for s, n in numbers.items()}


def _contributions(record: Record, outcomes: Outcomes, subsets: Sequence[str]) -> np.ndarray:
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
        raise RecordError(f'{run_name(record)}: outcomes do not fit the record: {error}') from None


def agreeing(members: Sequence[Record], problems: list[str]) -> Iterator[Record]:
    """Yields the runs that describe the data as most of them do; the others are named.

    Records of older versions lack some of the fields.
    """
    told: list[dict[str, Any]] = [
        {**r['dataset'], **({'samples': r['samples']} if 'samples' in r else {})} for r in members
    ]
    usual = {}
    for field in DESCRIPTION:
        given = [_rounded(data[field]) for data in told if field in data]
        usual[field] = Counter(given).most_common(1)[0][0] if given else ''
    for record, data in zip(members, told, strict=True):
        for field in DESCRIPTION:
            # What most runs say counts: a single edited record must not cast out all the others.
            if field in data and _rounded(data[field]) != usual[field]:
                problems.append(
                    f'{run_name(record)}: {field}: other runs on the same data say '
                    f'{usual[field]}, found {_rounded(data[field])}; '
                    f'{unfinished(record, force=True)}'
                )
                break
        else:
            yield record


def _rounded(value: Any) -> str:
    """Returns a value as text, in which numbers that differ by rounding are the same."""
    plain = json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 6))
    return json.dumps(plain, sort_keys=True)
