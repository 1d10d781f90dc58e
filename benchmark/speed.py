"""Measures what the suite costs, as ratios within one run, and writes them as a table."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__':
    # The script's own folder must not be searched for modules.
    sys.path[0] = str(ROOT)

import argparse  # noqa: E402
from functools import partial  # noqa: E402

from benchmark.errors import UserError  # noqa: E402
from benchmark.files import user_path  # noqa: E402
from benchmark.streams import Parser, command, telling  # noqa: E402

EXAMPLES = """examples:
  python benchmark/speed.py
  python benchmark/speed.py --out /tmp/speed.md
  python benchmark/speed.py --device cuda
  python benchmark/speed.py --quick --alone --out /tmp/speed.md

Trainings in the suite are compared with a bare PyTorch loop, a step of MMANet with one of the
unified model, tests of all subsets with one pass, two processes with one, the papers' networks
with the work of the released code, and the README's command with one experiment at a time. Both
sides take turns. Nothing else should run meanwhile.
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/speed.py',
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        '--out',
        type=partial(user_path, what='--out'),
        metavar='FILE',
        help='file that takes the table, e.g. /tmp/speed.md (default: results/reference/speed.md, '
        'or results/gpu/speed.md)',
    )
    p.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        default='cpu',
        help='what is timed, e.g. cuda for the current GPU (default: cpu)',
    )
    p.add_argument(
        '--quick',
        action='store_true',
        help='measure with tiny sizes, e.g. to see that everything runs; the ratios mean nothing, '
        'and --out is needed',
    )
    p.add_argument(
        '--alone',
        action='store_true',
        help='leave out what needs a second core, e.g. for a machine that does other work',
    )
    return p


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0.

    Raises:
        UserError: There is no GPU, the table cannot be written, or numbers that mean nothing would
            take the place of a table of the project; told with status 2.
    """
    args = parser().parse_args(argv)
    if args.quick and args.out is None:
        raise UserError(
            '--quick: expected --out beside it, e.g. --out /tmp/speed.md, found none: its ratios '
            'mean nothing, and would replace the table in results/reference/'
        )
    # PyTorch takes seconds to load, which a mistake in the arguments need not cost.
    from benchmark.engine.speed import report

    print(f'written: {report.write(args.out, args.quick, args.alone, args.device)}')
    return 0


if __name__ == '__main__':
    command(main)
