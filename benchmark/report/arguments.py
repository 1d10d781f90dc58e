"""Arguments of the commands that show records: which runs are read, and what of them is shown."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from benchmark.errors import UserError, unknown
from benchmark.files import elsewhere, user_path
from benchmark.records.distances import is_distance
from benchmark.records.store import RECORD


def add_records(p: argparse.ArgumentParser, written: str) -> None:
    """Adds where the runs lie and which data sets are read.

    Args:
        p: The parser.
        written: Where in the folder the command writes, for the help.
    """
    p.add_argument(
        'results',
        type=partial(user_path, what='RESULTS'),
        help=f'folder with the runs in runs/; {written}',
    )
    p.add_argument(
        '--runs',
        type=partial(user_path, what='--runs'),
        metavar='FOLDER',
        help='folder of runs (default: RESULTS/runs)',
    )
    p.add_argument(
        '--datasets', nargs='+', metavar='NAME', help='data sets, e.g. synth_faces (default: all)'
    )


def datasets(runs: Path, asked: Sequence[str] | None = None) -> list[str]:
    """Returns the names of the data sets that were asked for, by default of all that have runs.

    A link that leads nowhere is one, too.

    Raises:
        UserError: There is none.
    """
    found = asked or sorted(d.name for d in runs.glob('*') if d.is_dir() or d.is_symlink())
    if not found:
        parent = runs.parent
        if (named := parent.parent if parent.parent.name == 'runs' else parent).name == 'runs':
            # A folder of one data set, or runs/ itself, was given where the folder above belongs.
            raise UserError(f'{runs}: no runs found; expected the folder {named.parent}')
        said = elsewhere(parent) if parent.is_dir() else f'; there is no folder {parent}'
        raise UserError(f'{runs}: no runs found{said}')
    return list(found)


def without_runs(root: Path) -> UserError:
    """Returns the error on a data set without runs, with the nearest name of one that has some.

    Args:
        root: The folder of the runs of the data set.
    """
    if root.is_dir():
        return UserError(f'{root}: no {RECORD} found')
    there = (d.name for d in root.parent.glob('*') if d.is_dir())
    return unknown(f'data set in {root.parent}', root.name, there)


def no_metric(what: str, metric: str, known: Iterable[str]) -> UserError:
    """Returns the error on a metric that no record holds.

    Args:
        what: What was named, as of `unknown`.
        metric: The metric.
        known: Those that records hold.
    """
    held = set(known)
    hint = ''
    if is_distance(metric) and 'Dice' in held:
        hint = '; a run measures it with --cfg-options hd95=true'
    return UserError(f'{unknown(what, metric, held)}{hint}')


def add_metric(p: argparse.ArgumentParser) -> None:
    """Adds the metric to show."""
    p.add_argument(
        '--metric',
        default='',
        metavar='NAME',
        help="a metric that the records hold, e.g. APCER (default: the data set's own)",
    )


def add_selection(p: argparse.ArgumentParser) -> None:
    """Adds the rows and summaries to show, and the sensors that are off or fail."""
    p.add_argument(
        '--only',
        nargs='+',
        default=(),
        metavar='METHOD',
        help='the rows to show and to compare, e.g. hemis mmanet:alpha=0; the name of a method '
        'that is no row stands for all rows of the method (default: all)',
    )
    p.add_argument(
        '--summaries',
        nargs='+',
        default=(),
        metavar='NAME',
        help='the summaries to show beside the subsets: mean, worst, missing_1, expected, ... '
        '(default: all)',
    )
    p.add_argument(
        '--where',
        default='',
        metavar='MODALITY=off,...',
        help='rank on the subsets without these modalities, as if their sensors were gone',
    )
    p.add_argument(
        '--fail',
        default='',
        metavar='MODALITY=P,...',
        help='add the expected score if each modality is missing with its probability, '
        'independently of the others, and rank by it, e.g. thermal=0.05,rgb=0.05',
    )
