"""Which rows of one block can be told apart: marks, intervals of ranks, differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from benchmark.report import comparison
from benchmark.report.comparison import LEVEL, MIN_SEEDS, Comparison

Mark = Literal['', 'best', 'second']

MIN_UNITS = 20
"""Fewest independent units (samples, volumes, clusters) on which a difference is tested."""

SHARE = 4
"""A class needs at least this part of `MIN_UNITS`, where a metric is the mean over classes."""

MAIN = 'mean'
"""The primary column, whose tests are a family of their own, unless another one is given."""


class Scores(NamedTuple):
    """The scores that are to be compared.

    Attributes:
        columns: Id of each column -> the subsets that its score is of. The S subsets are first.
        values: (runs, columns) scores as fractions, NaN where not tested.
        rows: Row label -> seed -> index of the run.
        units: Per run (U, S, C) contributions of U independent units, or None where not known.
        metric: The metric that they contribute to.
        higher: Whether a higher score is better.
        summarise: Appends the summaries to scores of subsets: (..., S) -> (..., columns).
        main: The primary column, by which rows are ranked.
    """

    columns: Mapping[str, Sequence[str]]
    values: np.ndarray
    rows: Mapping[str, Mapping[int, int]]
    units: Sequence[np.ndarray | None]
    metric: str
    higher: bool
    summarise: Callable[[np.ndarray], np.ndarray]
    main: str = MAIN


class Standings:
    """Compares the rows of a block on the seeds that all of them share.

    Nothing here depends on which columns are shown.

    Args:
        scores: The scores of the block.

    Attributes:
        scores: As given.
        main: The primary column.
        left_out: Label -> why a row is not ranked: it has no outcomes or too few seeds.
        ranked: The labels of the other rows.
        seeds: The seeds that all ranked rows have.
        lacking: What is missing for any comparison, '' if nothing is.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores, self.main = scores, scores.main
        self.left_out = {
            label: told for label, runs in scores.rows.items() if (told := self._unfit(runs))
        }
        self.ranked = [label for label in scores.rows if label not in self.left_out]
        shared = [set(scores.rows[label]) for label in self.ranked]
        self.seeds = sorted(set.intersection(*shared)) if shared else []
        self.lacking = self._lack()

    def _unfit(self, runs: Mapping[int, int]) -> str:
        if any(self.scores.units[i] is None for i in runs.values()):
            return 'no outcomes'
        count = len(runs)
        return f'{count} seed{"s" if count > 1 else ""}' if count < MIN_SEEDS else ''

    def _lack(self) -> str:
        rows, units = self.scores.rows, self.scores.units
        if len(rows) < 2:
            return 'there is one method only'
        if not any(added is not None for added in units):
            return 'no difference can be tested without outcomes'
        if len(self.ranked) < 2:
            whole = all(units[i] is not None for runs in rows.values() for i in runs.values())
            return comparison.too_few({len(runs) for runs in rows.values()}, whole)
        if len(self.seeds) < MIN_SEEDS:
            return (
                f'this needs at least {MIN_SEEDS} seeds that all methods share (shared: '
                f'{", ".join(map(str, self.seeds)) or "none"})'
            )
        if not any(count >= MIN_UNITS for count in self.effective.values()):
            found = max(self.units.values())
            if found < MIN_UNITS:
                return f'this needs at least {MIN_UNITS} independent test samples (found: {found})'
            return (
                f'this needs at least {MIN_UNITS} independent test samples of like weight, and '
                f'{MIN_UNITS // SHARE} of each class that the metric averages over'
            )
        return ''

    @cached_property
    def runs(self) -> dict[str, list[int]]:
        """Ranked label -> its runs of the shared seeds, in one order of seeds."""
        rows = self.scores.rows
        return {label: [rows[label][seed] for seed in self.seeds] for label in self.ranked}

    @cached_property
    def _place(self) -> dict[str, int]:
        return {column: c for c, column in enumerate(self.scores.columns)}

    @cached_property
    def units(self) -> dict[str, int]:
        """Column -> the number of units that it is measured on, for a summary of its smallest."""
        known = [np.any(added, axis=2).sum(0) for added in self.scores.units if added is not None]
        # Runs may have been tested on different subsets.
        return self._smallest(
            dict(zip(self.scores.columns, np.max(known, axis=0).tolist(), strict=False))
        )

    @cached_property
    def effective(self) -> dict[str, int]:
        """Column -> the number of equal units that its units are worth; smallest of a summary's.

        Units of unequal weight w are worth (sum w)^2 / sum w^2 (Kish, 1965). Where a metric is the
        mean of several parts, such as classes, each part must have its own; a class that occurs in
        few units decides the score, and resampling cannot tell its variance. Each part is then
        required to be worth a quarter of what one part alone would be.
        """
        known = [added for added in self.scores.units if added is not None]
        each: dict[str, int] = {}
        for k, subset in enumerate(s for s, of in self.scores.columns.items() if of == [s]):
            found = [comparison.weights(a[:, k].astype(float), self.scores.metric) for a in known]
            w = max(found, key=lambda x: np.count_nonzero(x))
            w = w[:, w.any(0)]
            worth = w.sum(0) ** 2 / (w**2).sum(0)
            units = np.count_nonzero(w.any(1))
            # Rounding must not turn 20 equal units into 19.
            least = worth.min(initial=units) * (SHARE if w.shape[1] > 1 else 1) + 1e-6
            each[subset] = int(min(units, least))
        return self._smallest(each)

    def _smallest(self, each: Mapping[str, int]) -> dict[str, int]:
        """Returns column -> the smallest number among those of the subsets that it is of."""
        return {
            column: min((each[subset] for subset in subsets), default=0)
            for column, subsets in self.scores.columns.items()
        }

    @cached_property
    def _covariances(self) -> dict[str, np.ndarray]:
        """Column -> (runs, runs) covariance by the test samples, NaN for runs not ranked."""
        scores = self.scores
        chosen = [i for label in self.ranked for i in self.runs[label]]
        added = [a for a in (scores.units[i] for i in chosen) if a is not None]
        drawn = scores.summarise(comparison.resample(added, scores.metric))
        found = {}
        for c, column in enumerate(scores.columns):
            full = np.full((len(scores.values),) * 2, np.nan)
            there = [k for k, i in enumerate(chosen) if not np.isnan(scores.values[i, c])]
            runs = [chosen[k] for k in there]
            if runs:
                part = comparison.covariance(drawn[:, there, c], self.units[column])
                full[np.ix_(runs, runs)] = part
            found[column] = full
        return found

    def compare(self, first: str, second: str, column: str) -> Comparison:
        """Compares two ranked rows in a column, on the shared seeds.

        All but the difference is NaN where there are too few units. The difference is NaN, too,
        where a row was not tested, or not on all of the subsets that a summary is of.
        """
        a, b = self.runs[first], self.runs[second]
        values = self.scores.values[:, self._place[column]]
        units, both = self.units[column], a + b
        if not self._whole(both, column):
            return Comparison(math.nan, math.nan, math.nan, math.nan)
        shared = self._covariances[column][np.ix_(both, both)]
        if self.effective[column] < MIN_UNITS:
            shared = np.full_like(shared, np.nan)
        return comparison.compare(values[a], values[b], shared, units)

    def interval(self, label: str, column: str) -> tuple[float, float]:
        """Returns the 95 % interval of a row's mean over the shared seeds, NaN where not known.

        It is that of the difference from a constant, and counts seeds and test samples alike.
        """
        runs = self.runs.get(label, [])
        few = len(runs) < MIN_SEEDS or self.effective[column] < MIN_UNITS
        if few or not self._whole(runs, column):
            return math.nan, math.nan
        values = self.scores.values[runs, self._place[column]]
        shared = np.pad(self._covariances[column][np.ix_(runs, runs)], (0, len(runs)))
        found = comparison.compare(values, np.zeros(len(runs)), shared, self.units[column])
        return found.low, found.high

    def copies(self) -> dict[str, str]:
        """Returns column -> the column before it that has the same scores, of those that have one.

        `missing_0` is the complete subset, and `worst` may be the same subset in all runs.
        """
        runs = [i for members in self.runs.values() for i in members]
        order = sorted(self.scores.columns, key=lambda column: column != self.main)
        first: dict[bytes, str] = {}
        found = {}
        for column in order:
            content = self.scores.values[runs, self._place[column]].tobytes()
            if (original := first.setdefault(content, column)) != column:
                found[column] = original
        return found

    @cached_property
    def marks(self) -> dict[str, dict[str, Mark]]:
        """Row label -> column id -> mark, of the rows whose advantage is significant.

        The best is marked where it differs from the second, the second where it differs from the
        third. The tests of the primary column are one family, those of all others another; a copy
        of a column has the marks of its original. A mark is given only where the order on the
        shared seeds is that of the scores shown, down to the row that the marked differs from.
        """
        if self.lacking:
            return {}
        copies = self.copies()
        own = [column for column in self.scores.columns if column not in copies]
        found: dict[str, dict[str, Mark]] = {}
        for family in ([self.main], [column for column in own if column != self.main]):
            tests = [test for column in family for test in self._tests(column)]
            adjusted = comparison.holm([p for *_, p in tests])
            for (column, label, mark, _), p in zip(tests, adjusted, strict=True):
                if p < LEVEL:
                    found.setdefault(label, {})[column] = mark
        for marked in found.values():
            marked |= {copy: marked[original] for copy, original in copies.items()
                       if original in marked}  # fmt: skip
        return found

    def _tests(self, column: str) -> Iterator[tuple[str, str, Mark, float]]:
        """Yields column, label, mark and p-value of the tests of neighbours in the order."""
        order, shown = self._order(column, self.runs), self._order(column, self._shown)
        marks: tuple[Mark, Mark] = ('best', 'second')
        for place, mark in enumerate(marks[: max(len(order) - 1, 0)]):
            p = self.compare(order[place], order[place + 1], column).p
            if not np.isnan(p):
                agrees = order[: place + 2] == shown[: place + 2]
                yield column, order[place], mark, p if agrees else 1.0

    @property
    def _shown(self) -> dict[str, list[int]]:
        return {label: list(runs.values()) for label, runs in self.scores.rows.items()}

    def _order(self, column: str, rows: Mapping[str, list[int]]) -> list[str]:
        """Ranks rows by their mean in a column, best first; a summary must be over all subsets."""
        c = self._place[column]
        means = {
            label: self.scores.values[members, c].mean()
            for label, members in rows.items()
            if self._whole(members, column)
        }
        return sorted(means, key=means.__getitem__, reverse=self.scores.higher)

    def _whole(self, runs: Sequence[int], column: str) -> bool:
        """Returns whether runs were tested on all subsets of a column."""
        needed = [self._place[key] for key in (column, *self.scores.columns[column])]
        return not np.isnan(self.scores.values[np.ix_(runs, needed)]).any()

    @property
    def partial(self) -> list[str]:
        """The ranked rows that were not tested on all subsets."""
        return [label for label, runs in self.runs.items() if not self._whole(runs, self.main)]

    @cached_property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """Row label -> 95 % interval of its rank in the primary column.

        A row's rank is at least one more than the number of rows that are significantly better, and
        at most the number of rows less those that are significantly worse, where the p-values of
        the row's differences from all others are corrected by Holm. Rows that were not tested on
        all subsets have no rank.
        """
        if self.lacking or self.effective[self.main] < MIN_UNITS:
            return {}
        rows = self._order(self.main, self.runs)
        sign = 1 if self.scores.higher else -1
        found = {}
        for label in rows:
            others = [self.compare(other, label, self.main) for other in rows if other != label]
            adjusted = comparison.holm([1.0 if np.isnan(c.p) else c.p for c in others])
            ahead = [
                sign * c.difference for c, p in zip(others, adjusted, strict=True) if p < LEVEL
            ]
            above = sum(gap > 0 for gap in ahead)
            found[label] = (1 + above, len(rows) - (len(ahead) - above))
        return found
