"""The test samples that the runs of one protocol share, as their outcomes describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.records import metrics
from benchmark.records.schema import Outcomes, Record, RecordError
from benchmark.report import statistics


def run_name(record: Record) -> str:
    """Returns how messages name a run: method, protocol and seed."""
    return f'{record["method"]["label"]} {record["protocol_id"]} seed {record["seed"]}'


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
