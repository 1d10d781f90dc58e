"""Tables from records alone; nothing is trained, no torch is loaded.

python benchmark/tables.py results
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse  # noqa: E402

from benchmark.errors import UserError, unknown  # noqa: E402
from benchmark.report.writer import Lacking, show, write_tables  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = argparse.ArgumentParser(
        prog='benchmark/tables.py', description=(__doc__ or '').split('\n')[0]
    )
    p.add_argument('results', type=Path, help='folder that holds runs/, and takes tables/')
    p.add_argument('--runs', type=Path, help='folder of runs, by default RESULTS/runs')
    p.add_argument('--datasets', nargs='+', metavar='NAME', help='by default all')
    p.add_argument(
        '--metric',
        default='',
        help="another metric that the records hold, e.g. APCER; the dataset's own by default",
    )
    p.add_argument(
        '--gaps', action='store_true', help='also by what is missing in the training data'
    )
    p.add_argument(
        '--columns',
        nargs='+',
        metavar='SUBSET=TITLE',
        help="subsets in the order and by the titles of a paper's table",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 for bad arguments."""
    args = parser().parse_args(argv)
    runs = args.runs or args.results / 'runs'
    columns = dict(c.partition('=')[::2] for c in args.columns) if args.columns else None
    try:
        names = args.datasets or sorted(d.name for d in runs.glob('*') if d.is_dir())
        if not names:
            raise UserError(f'{runs}: no runs found')
        lacking: list[Lacking] = []
        for name in names:
            try:
                show(write_tables(args.results, name, runs, args.gaps, args.metric, columns))
            except Lacking as lack:
                lacking.append(lack)
        if len(lacking) == len(names) or (args.datasets and lacking):
            raise _nearest(lacking, args.metric)
        for left_out in lacking:
            print(f'left out: {left_out}')
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


def _nearest(lacking: list[Lacking], metric: str) -> UserError:
    """Returns the error for what no dataset has; of a metric, the nearest name of any of them."""
    if len(lacking) == 1 or not all(lack.metrics for lack in lacking):
        return lacking[0]
    return unknown('metric', metric, set().union(*(lack.metrics for lack in lacking)))


if __name__ == '__main__':
    sys.exit(main())
