"""The records of a data set as the page and the figures show them, read once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmark.records import store
from benchmark.records.schema import Outcomes, Record
from benchmark.report import arguments, published, writer
from benchmark.report.page import predictions
from benchmark.report.page.view import View
from benchmark.report.runs import Loader, NoColumn
from benchmark.report.selection import EVERYTHING, Selection
from benchmark.report.table import Table


@dataclass(frozen=True)
class Reading:
    """What a folder of runs holds.

    Attributes:
        table: The table of the data set.
        views: Its blocks, one for each protocol.
        folders: Identity of a run -> its folder.
        noted: Identity of a run -> what is kept of its outcomes.
        problems: One line for each file that cannot be used.
    """

    table: Table
    views: list[View]
    folders: Mapping[str, Path]
    noted: Mapping[str, dict[str, predictions.Seen]]
    problems: list[str]

    def seen(self, view: View) -> predictions.Runs:
        """Returns what is kept of the outcomes of the runs of a block."""
        return [self.noted.get(record['identity'], {}) for record in view.runs.records]

    def folder(self, record: Record) -> Path:
        """Returns the folder of a record's run."""
        return self.folders[record['identity']]


def read(
    name: str,
    root: Path,
    id: str = '',
    columns: Mapping[str, str] | None = None,
    metric: str = '',
    selection: Selection = EVERYTHING,
) -> Reading:
    """Reads the records of a data set, and looks at each file of outcomes once.

    Args:
        name: The name of the data set.
        root: The folder of its runs.
        id: What the ids of the blocks begin with.
        columns: As of `writer.table`.
        metric: The metric to show, by default the data set's own.
        selection: Which rows and subsets to show.

    Raises:
        Lacking: The records lack the metric, a column, a method or a modality.
        UserError: There is no such folder.
    """
    if not root.is_dir():
        raise arguments.without_runs(root)
    found = store.scan(root)
    complete, unscored = list(found.complete.values()), list(found.unscored.values())
    noted: dict[str, dict[str, predictions.Seen]] = {}
    load = _looking(writer.loader(found), noted)
    left_out: list[str] = []
    rows = published.published(name, left_out)
    try:
        table = writer.table(complete, load, unscored, rows, columns, metric, selection=selection)
    except NoColumn as error:
        raise writer.Lacking(f'{name}: {error}') from None
    if metric and not table.blocks:
        raise writer.unproven(name, metric, found)
    return Reading(
        table,
        [View(f'{id}b{k}', block) for k, block in enumerate(table.blocks)],
        {record['identity']: path.parent for path, record in found.complete.items()},
        noted,
        list(dict.fromkeys([*found.problems, *left_out, *table.problems])),
    )


def _looking(load: Loader, noted: dict[str, dict[str, predictions.Seen]]) -> Loader:
    """Returns a loader that also notes what is kept of the outcomes it reads.

    Reading outcomes is most of the work, and tables read them once.
    """

    def look(record: Record) -> Outcomes | None:
        outcomes = load(record)
        # What does not fit the record is told where the table is made.
        with contextlib.suppress(Exception):
            noted[record['identity']] = predictions.look(record, outcomes)
        return outcomes

    return look
