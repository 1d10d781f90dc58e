"""What a table is made of, before it is text."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

Mark = Literal['', 'best', 'second']


@dataclass(frozen=True)
class Cell:
    """A mean over seeds and its standard deviation, in percent; NaN prints as nothing."""

    mean: float
    std: float = math.nan
    mark: Mark = ''


@dataclass(frozen=True)
class Row:
    """One line of a block.

    Attributes:
        label: Name of the method variant or of the reference.
        kind: 'method', 'reference' (chance, ceiling) or 'published'.
        cells: One per column of the block.
        sign: Footnote sign after the label.
        extra: Further columns of the Markdown table: title -> text.
        seeds: Number of seeds.
        facts: Further columns of the CSV file: name -> plain number or text.
        lead: Text of the column before the label, where the block has one.
        protocol: Key of the row's own block, where rows of several are joined.
    """

    label: str
    kind: Literal['method', 'reference', 'published']
    cells: list[Cell]
    sign: str = ''
    extra: dict[str, str] = field(default_factory=dict)
    seeds: int = 0
    facts: dict[str, float | str] = field(default_factory=dict)
    lead: str = ''
    protocol: str = ''


@dataclass(frozen=True)
class Grid:
    """A small table of plain text beneath a block.

    Attributes:
        title: What it shows.
        caption: Sentences on how the numbers came about.
        header: Title of each column; the first holds labels.
        rows: One text per column.
    """

    title: str
    caption: list[str]
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Training:
    """What distinguishes a block's training from that of others.

    Attributes:
        base: Key of the data and of the protocol less its rates: blocks that share it differ in
            the gaps of the training data alone.
        rates: The protocol's rates, as given.
        gaps: Modality -> realised missing rate in percent, over the block's runs.
        sentences: On the metric, the protocol, the deviation and the marks.
    """

    base: str
    rates: str
    gaps: dict[str, float]
    sentences: dict[str, str]


@dataclass(frozen=True)
class Block:
    """Rows of one protocol, which alone may be compared.

    Attributes:
        protocol: Its id; empty where rows of several are joined.
        title: Dataset, metric and direction.
        caption: Sentences on how the numbers came about.
        size: Seeds and test samples, in a few words.
        columns: Column id -> title; ids are subsets, then 'mean', 'worst', 'missing_0', ...
        subsets: How many of the columns are subsets.
        rows: Methods, then references, then published rows.
        notes: Footnotes on the rows of this project.
        failures: One line per kind of run that failed or was refused.
        sources: Where the published rows come from and why they may not be compared.
        training: What the methods were trained on.
        cost: What the methods cost.
        lead: Title of the column before the labels; empty without one.
        data: Fingerprint of the data, where the same protocol was run on several.
    """

    protocol: str
    title: str
    caption: list[str]
    size: str
    columns: dict[str, str]
    subsets: int
    rows: list[Row]
    notes: list[str]
    failures: list[str]
    sources: list[str]
    training: Training
    cost: Grid | None = None
    lead: str = ''
    data: str = ''

    @property
    def key(self) -> str:
        """The protocol's id, with the fingerprint of the data where that is needed."""
        return f'{self.protocol}@{self.data}' if self.data else self.protocol

    @property
    def protocols(self) -> set[str]:
        """The ids of all protocols with a row."""
        keys = {self.protocol, *(row.protocol for row in self.rows)} - {''}
        return {key.partition('@')[0] for key in keys}


@dataclass(frozen=True)
class Table:
    """All blocks of a dataset, and one line per file or run that is not counted.

    Attributes:
        dataset: Its name.
        blocks: One per protocol.
        problems: What is not counted.
        patterns: The same rows by the gaps of the training data, where asked for.
    """

    dataset: str
    blocks: list[Block]
    problems: list[str]
    patterns: Table | None = None
