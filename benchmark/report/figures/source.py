"""What charts are made from: a block of a table, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.errors import unknown
from benchmark.records.corruptions import Tests
from benchmark.report import escaping
from benchmark.report.figures.shapes import Column, Value
from benchmark.report.page import lattice, predictions
from benchmark.report.page.view import Part, Section, View
from benchmark.report.standings import MAIN
from benchmark.report.writer import Lacking


@dataclass(frozen=True)
class Asked:
    """What was typed.

    Attributes:
        summaries: The summaries that heatmaps show beside the subsets.
        baseline: The row of which differences are, or '' for the best one.
        subsets: The subsets to show; none stands for all in heatmaps, and for the complete one
            where each subset takes a figure.
        only: Whether rows were chosen.
    """

    summaries: Sequence[str] = ()
    baseline: str = ''
    subsets: Sequence[str] = ()
    only: bool = False


@dataclass(frozen=True)
class Source:
    """A block of one protocol.

    Attributes:
        view: The block, as the page sees it.
        seen: For each of its runs what is kept of the outcomes.
        curves: The section of the page on training.
        asked: What was typed.
        tests: Identity of a run -> its tests under corruptions.
    """

    view: View
    seen: predictions.Runs
    curves: Section
    asked: Asked = field(default_factory=Asked)
    tests: Mapping[str, Tests] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """The methods, best mean first; after them those that have no mean."""
        return self.view.order

    @cached_property
    def columns(self) -> dict[int, Column]:
        """Place among the columns of the block -> the column, of those that heatmaps show."""
        runs, asked = self.view.runs, self.asked
        summaries = asked.summaries or (MAIN, 'worst')
        subsets = asked.subsets or runs.subsets
        wanted = [
            key for key in runs.columns if key in (subsets if key in runs.subsets else summaries)
        ]
        places = {key: k for k, key in enumerate(runs.columns)}
        return {
            places[key]: self.column(key)
            if key in runs.subsets
            else Column(escaping.terminal(key.replace('_', ' ')))
            for key in wanted
        }

    def column(self, subset: str) -> Column:
        """Returns the column of a subset."""
        names = self.view.runs.data['modalities']
        members = frozenset(names.index(name) for name in subset.split('+'))
        return Column(escaping.terminal(subset), members)

    @cached_property
    def modalities(self) -> list[str]:
        """The names of all modalities, without control characters."""
        return self.view.modalities

    @cached_property
    def baseline(self) -> int:
        """The number of the row that the others are compared with.

        Raises:
            Lacking: There is no such row.
        """
        labels, word = list(self.view.runs.groups), self.asked.baseline
        if word and word not in labels:
            raise Lacking(unknown(f'method of {self.view.runs.data["name"]}', word, labels))
        return labels.index(word) if word else self.order[0]

    def detailed(self) -> list[int]:
        """Returns the numbers of the subsets that get a figure each, among those with details.

        Raises:
            Lacking: A subset that was asked for has no details.
        """
        kept = predictions.detailed(self.view.runs.subsets)
        for subset in self.asked.subsets:
            if subset not in kept:
                sizes = 'one modality, of all modalities and of all but one'
                raise Lacking(f'{subset}: with so many subsets, only those of {sizes} are kept')
        return [kept.index(s) for s in self.asked.subsets] or [len(kept) - 1]

    def told_detailed(self) -> str:
        """Says which subsets are not shown where each takes a figure."""
        left = len(self.view.runs.subsets) - len(self.detailed())
        if self.asked.subsets or not left:
            return ''
        return (
            f'{left} of {len(self.view.runs.subsets)} subsets are not shown; --subsets names others'
        )


def part_of(section: Section, end: str) -> Part:
    """Returns the part of a section of the page whose id ends in `end`.

    Raises:
        Lacking: It is not there; the message is the page's.
    """
    for part in section['parts']:
        if part['kind'] == 'lacking':
            raise Lacking(part['text'].rstrip('.'))
        if part['id'].endswith(end):
            return part
    raise Lacking('it does not exist with one modality')


def rows_of(part: Part) -> list[dict[str, Any]]:
    """Returns the data of a chart of the page, each row as a dict."""
    return [dict(zip(part['fields'], row, strict=True)) for row in part['rows']]


def numbers_of(part: Part, methods: Sequence[str]) -> tuple[list[str], list[list[Value | str]]]:
    """Returns header and rows of the numbers of a chart, with names in the place of numbers."""
    options = {select['field']: select['options'] for select in part['selects']}
    titles = {'m': 'method', 's': 'subset'}
    rows = []
    for row in part['rows']:
        cells: list[Value | str] = []
        for name, value in zip(part['fields'], row, strict=True):
            chosen = methods if name == 'm' else options.get(name)
            cells.append(chosen[value] if chosen else value)
        rows.append(cells)
    return [titles.get(name, name) for name in part['fields']], rows


def present(view: View) -> list[int]:
    """Returns the numbers of the modalities that some tested subset has."""
    names = view.runs.data['modalities']
    return [names.index(name) for name in lattice.present(view)]
