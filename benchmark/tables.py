"""Makes the tables of recorded runs; nothing is trained, and torch is not loaded."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import partial  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from benchmark.errors import UserError, noting, unknown  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.report import paper_text, robustness_tables, writer  # noqa: E402
from benchmark.report.arguments import (  # noqa: E402
    add_metric,
    add_records,
    add_selection,
    datasets,
    no_metric,
)
from benchmark.report.cost_table import TextTable  # noqa: E402
from benchmark.report.layouts import LAYOUTS  # noqa: E402
from benchmark.report.selection import Selection, with_summaries  # noqa: E402
from benchmark.report.table import Table  # noqa: E402
from benchmark.report.writer import Lacking  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

EXAMPLES = """examples:
  python benchmark/tables.py results
      the tables of all data sets with runs in results/runs, written to results/tables
  python benchmark/tables.py results --datasets synth_faces --metric APCER
      one data set in another metric that its records hold
  python benchmark/tables.py results --gaps
      also the table with rows by training gaps
  python benchmark/tables.py results --baseline modality_dropout
      also every method against one: differences, intervals, how many seeds would be needed
  python benchmark/tables.py results --datasets synth_faces --layout mmanet-table1
      the table of a paper, with the published numbers and what is missing of ours
  python benchmark/tables.py results --only hemis mmanet --summaries mean worst
      two rows alone, compared among themselves
  python benchmark/tables.py results --where depth=off --fail rgb=0.05
      ranked for a system whose depth sensor is gone and whose camera fails now and then
  python benchmark/tables.py results --corruptions
      also the scores under corruptions of runs that `run.py --corruptions` has tested
  python benchmark/tables.py results --transpose
      LaTeX with a row per subset and a column per method
  python benchmark/tables.py mine --runs results/reference/runs --columns rgb=RGB depth=D
      the committed runs, with the columns of a paper, written to mine/tables
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/tables.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records(p, 'the tables go to tables/ in it')
    add_metric(p)
    p.add_argument(
        '--gaps',
        action='store_true',
        help='also make the table by training gaps, of runs that trained under several missing '
        'rates; it is written to NAME-gaps.*',
    )
    p.add_argument(
        '--columns',
        nargs='+',
        metavar='COLUMN=TITLE',
        help="subsets and summaries in the order and by the titles of a paper's table, e.g. "
        'rgb+ir=RI ir=I mean=Avg (default: all subsets, smallest first, and all summaries)',
    )
    p.add_argument(
        '--common-samples',
        action='store_true',
        help='score all subsets on the test samples that every subset was tested on, e.g. where '
        'some samples lack a modality; written to NAME-common.*',
    )
    p.add_argument(
        '--baseline',
        default='',
        metavar='METHOD',
        help='also compare every method with this row; written to NAME-baseline.*',
    )
    p.add_argument(
        '--transpose',
        action='store_true',
        help='in LaTeX, a row per subset (with circles for its modalities) and a column per method',
    )
    p.add_argument(
        '--corruptions',
        action='store_true',
        help='also make the tables of the tests under corruptions; written to NAME-corruptions.*',
    )
    add_selection(p)
    p.add_argument(
        '--layout',
        default='',
        metavar='NAME',
        help="also make a paper's table, with its published numbers beside ours: "
        f'{", ".join(LAYOUTS)}; written to NAME-LAYOUT.*',
    )
    return p


def titles(words: list[str]) -> dict[str, str]:
    """Reads the COLUMN=TITLE words of --columns; a column alone is its own title.

    Raises:
        UserError: A title is empty, or a column is given twice.
    """
    found: dict[str, str] = {}
    for word in words:
        subset, equals, title = word.partition('=')
        if not subset or (equals and not title):
            raise UserError(f'--columns: expected COLUMN=TITLE, found {word!r}')
        if subset in found:
            raise UserError(f'--columns: expected one title of {subset}, found two')
        found[subset] = title or subset
    return found


class Written(NamedTuple):
    """What was written of one data set, to be printed once all others are written, too.

    Attributes:
        table: The table.
        against: The tables of --baseline.
        papers: Those of --layout.
        corrupted: Those of --corruptions.
        lacking: Why something of these is not there.
    """

    table: Table
    against: list[TextTable]
    papers: list[paper_text.Written]
    corrupted: list[TextTable]
    lacking: list[Lacking]


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0, or 2 if something could not be made.

    Raises:
        UserError: Nothing could be made, which is told with status 2.
    """
    args = parser().parse_args(argv)
    runs = args.runs or args.results / 'runs'
    if args.layout and args.layout not in LAYOUTS:
        raise unknown('layout', args.layout, LAYOUTS)
    if args.layout and args.columns:
        raise UserError('--layout: expected no --columns beside it, whose rows are all subsets')
    for option in ('where', 'metric', 'common_samples'):
        if args.corruptions and getattr(args, option):
            raise UserError(f'--corruptions: expected no --{option.replace("_", "-")} beside it')
    columns = with_summaries(titles(args.columns or []), args.summaries)
    names = datasets(runs, args.datasets)
    made, errors = _write_all(args, names, runs, columns)
    for written in made:
        writer.show(written.table)
        writer.show_texts(written.against)
        robustness_tables.show(args.results, written.table, written.corrupted)
        for paper in written.papers:
            paper_text.show(paper)
    return _tell(errors, len(names), args)


def _write_all(
    args: argparse.Namespace, names: list[str], runs: Path, columns: dict[str, str] | None
) -> tuple[list[Written], list[UserError]]:
    """Writes the tables of all data sets; returns them, and why some could not be made."""
    made: list[Written] = []
    errors: list[UserError] = []
    folders = {name: writer.folder_of(name, runs) for name in names}
    for name, folder in folders.items():
        write = partial(_write, args, name, runs, columns)
        with noting(f'{name}: its tables', errors):
            made.append(store.up_to_date(folder, write))
    return made, [*errors, *(lack for written in made for lack in written.lacking)]


def _tell(errors: list[UserError], asked: int, args: argparse.Namespace) -> int:
    """Tells what could not be made; returns the exit status.

    Raises:
        UserError: What was asked for is lacking in all data sets, or in one that was named.
    """
    lacking = [error for error in errors if isinstance(error, Lacking)]
    failed = [error for error in errors if not isinstance(error, Lacking)]
    for told in dict.fromkeys(map(str, failed)):
        print(f'error: {told}', file=sys.stderr)
    if lacking and (len(lacking) == asked or args.datasets):
        raise _nearest(lacking, args.metric)
    for left_out in lacking:
        print(f'left out: {left_out}')
    return 2 if failed else 0


def _write(
    args: argparse.Namespace, name: str, runs: Path, columns: dict[str, str] | None
) -> Written:
    """Writes the tables of one data set."""
    out = args.results
    made = writer.write_tables(
        out,
        name,
        runs,
        args.gaps,
        args.metric,
        columns,
        args.transpose,
        args.common_samples,
        Selection(tuple(args.only), args.where, args.fail),
    )
    written, words = Written(made, [], [], [], []), (args.layout, args.only, args.summaries)
    also: list[tuple[Any, list[Any], Callable[[], list[Any]]]] = [
        (args.baseline, written.against, lambda: writer.write_baseline(out, made, args.baseline)),
        (args.layout, written.papers, lambda: [paper_text.write(out, made, *words, runs)]),
        (args.corruptions, written.corrupted, lambda: robustness_tables.of(out, made, runs / name)),
    ]
    for asked, takes, make in also:
        try:
            takes.extend(make() if asked else ())
        except Lacking as lack:
            written.lacking.append(lack)
    return written


def _nearest(lacking: list[Lacking], metric: str) -> UserError:
    """Returns the error if every data set lacks what was asked for.

    For a metric it suggests the nearest name among the metrics of all data sets.
    """
    if len(lacking) == 1 or not all(lack.metrics for lack in lacking):
        return lacking[0]
    return no_metric('metric', metric, set().union(*(lack.metrics for lack in lacking)))


if __name__ == '__main__':
    command(main)
