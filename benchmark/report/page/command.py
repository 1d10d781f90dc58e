"""Makes a page for a browser of recorded runs; nothing is trained, and torch is not loaded."""

from __future__ import annotations

import argparse

from benchmark.report.arguments import add_records
from benchmark.report.page import document
from benchmark.streams import Parser, telling

EXAMPLES = """examples:
  python benchmark/report.py results
      the page of all data sets with runs in results/runs, written to results/index.html
  python benchmark/report.py mine --runs results/reference/runs --datasets synth_faces
      a page of one data set of the committed runs, written to mine/index.html
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/report.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_records(p, 'the page is index.html in it')
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 if something could not be made."""
    args = parser().parse_args(argv)
    return 0 if document.show(args.results, args.runs, args.datasets or ()) else 2
