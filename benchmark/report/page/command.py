"""Makes a page for a browser of recorded runs; nothing is trained, and torch is not loaded."""

from __future__ import annotations

import argparse
from functools import partial

from benchmark.files import user_path
from benchmark.report.page import document

EXAMPLES = """examples:
  python benchmark/report.py results
      the page of all data sets with runs in results/runs, written to results/index.html
  python benchmark/report.py mine --runs results/reference/runs --datasets synth_faces
      a page of one data set of the committed runs, written to mine/index.html
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = argparse.ArgumentParser(
        prog='benchmark/report.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        'results',
        type=partial(user_path, what='RESULTS'),
        help='folder with the runs in runs/; the page is index.html in it',
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
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 if something could not be made."""
    args = parser().parse_args(argv)
    return 0 if document.show(args.results, args.runs, args.datasets or ()) else 2
