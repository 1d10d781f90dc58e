"""What is left of the scores under corruptions: the numbers of tables, page and figures.

With A_0 the score of the clean input, A_s that at severity s and c the score without any input,

    relative robustness = mean over s of (A_s - c) / (A_0 - c)
    area under the severity curve = integral of A_s over s from 0 to the last severity, by the
        trapezoidal rule, divided by the last severity

The score of a row is the mean over its seeds; a mean over corruptions gives every corruption,
modality and severity the same weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from benchmark.records.corruptions import Tests, subsets_of
from benchmark.records.kinds import KINDS
from benchmark.records.units import PERCENT
from benchmark.report.runs import Runs
from benchmark.subsets import subset_order

FEWEST = 5
"""Rows that a trend of clean and corrupted scores needs."""


class Curve(NamedTuple):
    """The scores of a row by severity, as recorded.

    Attributes:
        label: The row.
        modality: The corrupted modality.
        kind: The corruption.
        subset: The subset that the network was given.
        severities: From 0, the clean input.
        mean: Mean over seeds at each severity.
        std: Standard deviation over seeds, NaN for one seed.
    """

    label: str
    modality: str
    kind: str
    subset: str
    severities: tuple[int, ...]
    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class Robustness:
    """The tests under corruptions of the runs of one protocol.

    Attributes:
        runs: The runs; the data set's own metric is what is measured.
        tests: Identity of a run -> its tests.
    """

    runs: Runs
    tests: Mapping[str, Tests]

    @cached_property
    def rows(self) -> dict[str, list[Tests]]:
        """Row label -> the tests of those of its runs that have some."""
        found = {
            label: [
                self.tests[self.runs.records[i]['identity']]
                for i in members
                if self.runs.records[i]['identity'] in self.tests
            ]
            for label, members in self.runs.groups.items()
        }
        return {label: tests for label, tests in found.items() if tests}

    @property
    def modalities(self) -> list[str]:
        """The modalities that some run was tested with."""
        tested = {m for tests in self._every for m in tests['tests']}
        return [m for m in self.runs.data['modalities'] if m in tested]

    @property
    def kinds(self) -> list[str]:
        """The corruptions that some run was tested under."""
        tested = {k for tests in self._every for kinds in tests['tests'].values() for k in kinds}
        return [kind for kind in KINDS if kind in tested]

    @cached_property
    def severities(self) -> tuple[int, ...]:
        """0 and the severities that some run was tested at."""
        found = {
            int(severity)
            for tests in self._every
            for kinds in tests['tests'].values()
            for severities in kinds.values()
            for severity in severities
        }
        return (0, *sorted(found))

    @cached_property
    def subsets(self) -> list[str]:
        """The subsets on which some modality can be tested, smallest first."""
        names = self.runs.data['modalities']
        wanted = {subset for m in names for subset in subsets_of(names, m)}
        return subset_order(wanted, names)

    @property
    def whole(self) -> str:
        """The subset of all modalities."""
        return self.subsets[-1]

    @property
    def _every(self) -> Iterator[Tests]:
        return (tests for found in self.rows.values() for tests in found)

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Row -> scores (seeds, modalities, kinds, severities, subsets), NaN where not tested.

        At severity 0 stand the clean scores, of what was tested at some other severity.
        """
        shape = tuple(map(len, (self.modalities, self.kinds, self.severities, self.subsets)))
        return {
            label: np.stack([self._array(tests, shape) for tests in found])
            for label, found in self.rows.items()
        }

    def _array(self, tests: Tests, shape: tuple[int, ...]) -> np.ndarray:
        scores = np.full(shape, np.nan)
        for m, modality in enumerate(self.modalities):
            for k, kind in enumerate(self.kinds):
                for severity, cells in tests['tests'].get(modality, {}).get(kind, {}).items():
                    s = self.severities.index(int(severity))
                    for subset, cell in cells.items():
                        at = self.subsets.index(subset)
                        scores[m, k, s, at] = _number(cell['score'])
                        scores[m, k, 0, at] = _number(tests['clean'][subset]['score'])
        return scores

    @cached_property
    def asked(self) -> np.ndarray:
        """(modalities, kinds, severities, subsets) bool, what some run was tested on."""
        return np.any([~np.isnan(v).all(0) for v in self.values.values()], axis=0)

    def mean(self, label: str, where: np.ndarray) -> np.ndarray:
        """Returns the mean score of a row over tests, (seeds,); NaN where it lacks one of them.

        Args:
            label: The row.
            where: (modalities, kinds, severities, subsets) bool, some of `asked`.
        """
        chosen = self.values[label][:, where]
        return chosen.mean(1) if where.any() else np.full(len(chosen), np.nan)

    def where(
        self,
        modality: str = '',
        kind: str = '',
        severity: int | None = None,
        subset: str = '',
    ) -> np.ndarray:
        """Returns which of the tests these are, corrupted ones unless a severity is given.

        Returns:
            (modalities, kinds, severities, subsets) bool.
        """
        found = self.asked.copy()
        grades = np.array(self.severities)
        found &= (grades > 0 if severity is None else grades == severity)[:, None]
        found &= np.array([modality in ('', m) for m in self.modalities])[:, None, None, None]
        found &= np.array([kind in ('', k) for k in self.kinds])[:, None, None]
        found &= np.array([s == (subset or self.whole) for s in self.subsets])
        return found

    def relative(self, label: str, where: np.ndarray) -> np.ndarray:
        """Returns the relative robustness of a row, (seeds,); arguments as of `mean`.

        It is NaN where a clean score is not better than `empty`, or this is not known.
        """
        values = self.values[label]
        if self.empty is None or not where.any():
            return np.full(len(values), np.nan)
        return kept_share(values, self.empty, self.runs.higher)[:, where].mean(1)

    def area(self, label: str, where: np.ndarray) -> np.ndarray:
        """Returns the area under the severity curve of a row, (seeds,).

        Args:
            label: The row.
            where: As of `mean`; the curves of what is chosen at any severity.
        """
        chosen = where.any(2)
        found = area(np.moveaxis(self.values[label], 3, -1), self.severities)[:, chosen]
        return found.mean(1) if chosen.any() else np.full(len(found), np.nan)

    @cached_property
    def empty(self) -> float | None:
        """The score without any input; if not known 0, or None where a lower score is better."""
        # An error of 0 is perfect, and there is no highest one.
        found = without_input(self.runs)
        return 0.0 if found is None and self.runs.higher else found

    def effective(self, modality: str = '', kind: str = '') -> dict[str, float]:
        """Returns row -> effective robustness over the tests that `where` chooses."""
        where = self.where(modality, kind)
        clean = self.where(modality, kind, 0)
        labels = list(self.values)
        if self.runs.printed is not PERCENT:  # log-odds are of fractions
            return dict.fromkeys(labels, np.nan)
        pairs = [
            (self.mean(label, clean).mean(), self.mean(label, where).mean()) for label in labels
        ]
        first, second = np.array(pairs).T
        return dict(zip(labels, effective(first, second, self.runs.higher).tolist(), strict=True))

    def curves(self) -> Iterator[Curve]:
        """Yields the curve of every row, modality, corruption and subset that was tested."""
        for label, values in self.values.items():
            mean = values.mean(0)
            std = values.std(0, ddof=1) if len(values) > 1 else np.full_like(mean, np.nan)
            for m, k, s in np.argwhere((~np.isnan(mean[:, :, 1:])).any(2)):
                names = self.modalities[m], self.kinds[k], self.subsets[s]
                grades = tuple(self.severities)
                yield Curve(label, *names, grades, mean[m, k, :, s], std[m, k, :, s])


def _number(value: float | None) -> float:
    return np.nan if value is None else value


def kept_share(values: np.ndarray, empty: float, higher: bool) -> np.ndarray:
    """Returns the share of the clean score above `empty` that is kept, of (..., severities, S).

    Args:
        values: Scores, the clean ones at the first severity.
        empty: The score without any input.
        higher: Whether a higher score is better.
    """
    gain = (values[..., :1, :] - empty) * (1 if higher else -1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(gain > 0, (values - empty) / (values[..., :1, :] - empty), np.nan)


def area(values: np.ndarray, severities: Sequence[int]) -> np.ndarray:
    """Returns the area under severity curves (..., severities), divided by the last severity."""
    from scipy.integrate import trapezoid  # here: it takes long to import

    return trapezoid(values, severities, axis=-1) / max(severities[-1], 1)


def effective(clean: np.ndarray, corrupted: np.ndarray, higher: bool) -> np.ndarray:
    """Returns the effective robustness of rows: the score that the clean one does not explain.

    It is A - beta(A_0) for the score A under corruption and the clean one A_0 (R. Taori et al.,
    Measuring robustness to natural distribution shifts in image classification, NeurIPS 2020).
    There beta is a line through the log-odds of many standard models. Here it is the line of least
    squares through the log-odds of the other rows, so that no row is part of its own standard.

    Args:
        clean: (R,) scores as fractions, NaN where a row is left out.
        corrupted: (R,) scores under corruption.
        higher: Whether a higher score is better; the result of a row that does better is positive.

    Returns:
        (R,), NaN for all rows if fewer than `FEWEST` are left, or where the others have one score.
    """
    # A log-odds of a share that is 0 or 1 is infinite.
    x, y = (logit(np.clip(v, 1e-3, 1 - 1e-3)) for v in (clean, corrupted))
    known, found = ~np.isnan(x + y), np.full(len(x), np.nan)
    if known.sum() < FEWEST:
        return found
    for row in np.flatnonzero(known):
        others = known & (np.arange(len(x)) != row)
        if np.ptp(x[others]) > 0:
            slope, start = np.polyfit(x[others], y[others], 1)
            found[row] = corrupted[row] - expit(start + slope * x[row])
    return found if higher else -found


def without_input(runs: Runs) -> float | None:
    """Returns the score without any input, None if it is not known.

    It is the score of guessing where the data set states it. A network that sees nothing gives one
    answer to all samples: then the accuracy is at best that of the most frequent class, and the
    ACER is always one half.
    """
    if not runs.main:
        # Chance is a score in the data set's own metric.
        return None
    chance = runs.data['chance']
    if chance is not None:
        return chance
    if runs.metric == 'ACER':
        return 0.5
    majority = runs.samples.majority if runs.metric == 'accuracy' else {}
    return next((majority[s] for s in reversed(runs.subsets) if s in majority), None)
