"""The model of a table: blocks of rows of cells, made from runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmark.records.schema import Unscored
from benchmark.report import cost_table
from benchmark.report.cost_table import TextTable
from benchmark.report.rows import Row, method_row, number_row, published_row, references
from benchmark.report.runs import EXPECTED, Runs


@dataclass(frozen=True)
class Block:
    """The rows of one protocol, or of protocols that differ in their training gaps alone.

    Attributes:
        leads: Lead of the rows -> their runs. One empty lead makes the ordinary block of one
            protocol; a block by training gaps has a lead for each protocol.
        unscored: Records of the runs that failed or were refused.
        published: Rows that papers print for the data set.
        told: Sentences on what was asked for.
    """

    leads: dict[str, Runs]
    unscored: list[Unscored] = field(default_factory=list)
    published: list[Mapping[str, Any]] = field(default_factory=list)
    told: str = ''

    @property
    def first(self) -> Runs:
        """The runs of the first lead."""
        return next(iter(self.leads.values()))

    @property
    def widest(self) -> Runs:
        """The runs with the most seeds and, among those, the most methods."""
        return max(self.leads.values(), key=lambda runs: (runs.seeds, len(runs.groups)))

    @property
    def by_gaps(self) -> bool:
        """Whether the rows are grouped by training gaps."""
        return '' not in self.leads

    @property
    def protocols(self) -> set[str]:
        """The ids of all protocols that have a row."""
        return {runs.protocol_id for runs in self.leads.values()}

    @property
    def subsets(self) -> dict[str, str]:
        """Id -> title of the columns that show one subset."""
        shown = [(runs, k, t) for runs in self.leads.values() for k, t in runs.titles.items()]
        return {key: title for runs, key, title in shown if key in runs.subsets}

    @property
    def columns(self) -> dict[str, str]:
        """Id -> title of all columns: subsets, then 'mean', 'worst', 'missing_0', ..."""
        if self.by_gaps:
            asked = {EXPECTED: EXPECTED} if self.first.absent is not None else {}
            return {**self.subsets, **asked, 'mean': 'mean', 'worst': 'worst'}
        return self.first.titles

    @property
    def shown(self) -> list[Mapping[str, Any]]:
        """The published rows of the metric that the block shows."""
        own = self.first.data['metric']
        return [row for row in self.published if row.get('metric', own) == self.first.metric]

    @cached_property
    def rows(self) -> list[Row]:
        """The methods, then the references, then the published rows."""
        rows = [
            method_row(label, runs, lead)
            for lead, runs in self.leads.items()
            for label in runs.groups
        ]
        if self.first.main:
            rows += references(self.first)
        rows += [published_row(row, self.first) for row in self.shown]
        if len(set(self.first.numbers.values())) > 1:
            rows.append(number_row(self.first.sample, self.first.numbers))
            if self.first.unit == 'clusters':
                rows.append(number_row('clusters', self.first.units))
        return rows

    @property
    def cost(self) -> TextTable | None:
        """What the methods cost, if that is known; not by training gaps or of another metric."""
        if self.by_gaps or not self.first.main:
            return None
        return cost_table.text_table(self.first, self.subsets)


@dataclass(frozen=True)
class Table:
    """The table of one data set.

    Attributes:
        dataset: The name of the data set.
        blocks: One per protocol.
        problems: One line for each file or run that does not count.
        gaps: The same rows by training gaps, if asked for.
        transposed: Whether LaTeX has a row per subset and a column per method.
        stem: The path of its files without their suffixes, once they are written.
        unfinished: Protocol id -> one line for each run that failed or was refused, of protocols
            without a finished run, which have no block.
    """

    dataset: str
    blocks: list[Block]
    problems: list[str]
    gaps: Table | None = None
    transposed: bool = False
    stem: Path | None = None
    unfinished: dict[str, list[str]] = field(default_factory=dict)
