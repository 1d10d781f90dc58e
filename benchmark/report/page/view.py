"""One block of a table as the page shows it, and the parts that sections consist of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmark.records.units import Unit, shown
from benchmark.report import escaping, statistics
from benchmark.report.robustness import without_input
from benchmark.report.runs import Runs
from benchmark.report.standings import MAIN
from benchmark.report.table import Block

PARTIAL = '§'
"""The sign of a row whose summaries are over some of the subsets."""

CHOSEN = 6
"""Most methods that charts show before the reader chooses; more colours are hard to tell apart."""

Part = dict[str, Any]
Section = dict[str, Any]


@dataclass(frozen=True)
class View:
    """A block of one protocol.

    Attributes:
        id: Identifies the block on the page.
        block: The block.
    """

    id: str
    block: Block

    @property
    def runs(self) -> Runs:
        """The runs of the block."""
        return self.block.first

    @cached_property
    def methods(self) -> list[str]:
        """The row labels without control characters; equal ones are numbered."""
        names = [escaping.terminal(label) for label in self.runs.groups]
        return [
            f'{name} ({names[:k].count(name) + 1})' if names.count(name) > 1 else name
            for k, name in enumerate(names)
        ]

    @cached_property
    def subsets(self) -> list[str]:
        """The subsets that were tested."""
        return tidy(self.runs.subsets)

    @cached_property
    def modalities(self) -> list[str]:
        """The names of all modalities."""
        return tidy(self.runs.data['modalities'])

    @property
    def score(self) -> str:
        """The metric with its unit."""
        return f'{self.runs.metric}{self.unit.suffix}'

    @property
    def unit(self) -> Unit:
        """How the scores are printed."""
        return self.runs.printed

    @property
    def better(self) -> str:
        """Which scores are better, as a sentence."""
        return f'{"Higher" if self.runs.higher else "Lower"} is better.'

    @property
    def members(self) -> list[list[int]]:
        """For each method the indices of its runs."""
        return list(self.runs.groups.values())

    def collapsed(self, members: Iterable[int]) -> bool:
        """Returns whether a network of some runs answers one class to all samples of a subset."""
        return any(self.runs.records[i]['collapsed'] for i in members)

    @cached_property
    def means(self) -> np.ndarray:
        """(methods, columns) means over seeds as in the tables, NaN where not tested."""
        values = [[*map(_mean, self.runs.values[runs].T)] for runs in self.members]
        return self.unit.factor * np.array(values).reshape(len(values), len(self.runs.columns))

    @cached_property
    def order(self) -> list[int]:
        """The methods by their mean over subsets, best first; then those that lack some subset."""
        column = list(self.runs.columns).index(MAIN)
        main = self.means[:, column] * (-1 if self.runs.higher else 1)
        return [int(k) for k in np.lexsort((main, -self.tested.sum(1)))]

    @cached_property
    def tested(self) -> np.ndarray:
        """(methods, columns) whether each method was tested on each of the single subsets.

        The subsets are the first columns. Means of methods over different ones are not compared.
        """
        return ~np.isnan(self.means[:, : len(self.runs.subsets)])

    @cached_property
    def partial(self) -> list[str]:
        """For each method the sign of summaries over some of the subsets, '' over all of them."""
        return ['' if all(row) else PARTIAL for row in self.tested]

    @property
    def chosen(self) -> list[int]:
        """The methods that charts show before the reader chooses: the best ones."""
        return sorted(self.order[:CHOSEN])

    @cached_property
    def empty(self) -> float | None:
        """The score without any input, or None if it is not known."""
        return without_input(self.runs)

    def told_empty(self) -> str:
        """Says what counts as the score without any input."""
        if self.empty is None:
            return ''
        kind = 'the best constant answer' if self.runs.data['chance'] is None else 'chance'
        score = shown(self.empty, self.runs.metric)
        return f'Without any modality the score is taken to be that of {kind}, {score}.'


def _mean(values: np.ndarray) -> float:
    """Returns the mean (N,) -> () that the tables print, NaN if nothing is known."""
    known = values[~np.isnan(values)]
    return statistics.over_seeds(known)[0] if len(known) else math.nan


def tidy(names: Iterable[str]) -> list[str]:
    """Returns names without control characters."""
    return [escaping.terminal(name) for name in names]


def number(value: float | None, digits: int | None = None) -> float | None:
    """Returns a number for JSON, which has no NaN; None stands for what is not known.

    Without `digits` it keeps all of its own: the page rounds what it shows, and a number that is
    rounded twice may differ from that of the tables.
    """
    if value is None or not math.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def numbers(values: Iterable[Any], digits: int | None = None) -> list[Any]:
    """Returns nested numbers for JSON."""
    return [
        numbers(v, digits) if isinstance(v, Sequence | np.ndarray) else number(v, digits)
        for v in values
    ]


def figure(
    id: str,
    chart: str,
    text: str,
    fields: Sequence[str],
    rows: Iterable[Sequence[Any]],
    columns: Mapping[str, str],
    titles: Mapping[str, str] | None = None,
    selects: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Part:
    """Returns a chart.

    Args:
        id: Identifies it within the page.
        chart: Its name in `charts.CHARTS`.
        text: What the chart shows, in words.
        fields: The names of the columns of `rows`. In the column 'm' is the number of a method.
        rows: The data.
        columns: Field -> title of what the table of the chart's numbers shows.
        titles: Placeholder in the chart -> text.
        selects: What the reader chooses: the rows whose `field` has the number of the option.
        more: `all` shows all methods instead of the chosen ones; `log` makes x logarithmic where
            the values differ much.
    """
    return {
        'kind': 'figure',
        'id': id,
        'chart': chart,
        'text': text,
        'fields': list(fields),
        'rows': list(rows),
        'columns': list(columns.items()),
        'titles': dict(titles or {}),
        'selects': list(selects),
        **more,
    }


def grid(
    id: str,
    caption: str,
    head: str,
    rows: Sequence[str],
    columns: Sequence[str],
    layers: Mapping[str, Any],
    selects: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Part:
    """Returns a table whose cells are coloured by their numbers.

    Args:
        id: Identifies it within the page.
        caption: What the cells are.
        head: Title of the column of row titles.
        rows: The row titles.
        columns: The column titles.
        layers: '' or, with selects, the numbers of the chosen options joined by '/' -> the numbers,
            one list per row.
        selects: What the reader chooses.
        more: `colours` tells for each option of the first select how cells are coloured: 'high',
            'low' (which numbers are dark) or 'signed'; `methods` that the rows are the methods;
            `signs` has for each row what stands behind its title;
            `baseline` is the first of the methods to which the difference is an option, and `over`
            has for each column the columns of which it is a mean; `digits`.
    """
    return {
        'kind': 'grid',
        'id': id,
        'text': caption,
        'head': head,
        'rows': list(rows),
        'cols': list(columns),
        'layers': dict(layers),
        'selects': list(selects),
        **{'colours': ['high'], 'digits': 2, **more},
    }


def lacking(text: str) -> Part:
    """Returns a sentence on what cannot be shown, and why."""
    return {'kind': 'lacking', 'text': text}


def section(id: str, title: str, about: str, *parts: Part, shown: bool = False) -> Section:
    """Returns a section; `shown` ones are open when the page is loaded."""
    return {'id': id, 'title': title, 'about': about, 'parts': list(parts), 'open': shown}
