"""Trains methods, tests them on every subset of the modalities, and prints the tables.

python benchmark/run.py --methods mmanet rfnet
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# First of all: `python benchmark/run.py` puts benchmark/ itself on the path, and a package named
# `datasets` installed elsewhere must not be taken for ours.
ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # repeatable matrix products on CUDA

import argparse  # noqa: E402
import contextlib  # noqa: E402
from functools import partial  # noqa: E402

from benchmark.engine import grids, plan  # noqa: E402
from benchmark.engine.dry_run import show_plan  # noqa: E402
from benchmark.engine.grid import Stamps, Worker, execute, steps, without_refused  # noqa: E402
from benchmark.engine.listing import show_list  # noqa: E402
from benchmark.engine.request import prepare  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.files import sweep, user_path  # noqa: E402
from benchmark.progress import Reporter  # noqa: E402
from benchmark.records import store  # noqa: E402
from benchmark.registry import discover  # noqa: E402
from benchmark.report import writer  # noqa: E402
from benchmark.report.page import document  # noqa: E402
from benchmark.streams import command, telling  # noqa: E402

EXAMPLES = """examples:
  python benchmark/run.py --methods mmanet rfnet
  python benchmark/run.py --methods mmanet:alpha=4 rfnet --seeds 0 1 2
  python benchmark/run.py --methods rfnet --datasets synth_rooms --cfg-options epochs=30 lr=5e-4
  python benchmark/run.py --methods rfnet --datasets arrays --data-root my.npz
  python benchmark/run.py --methods modality_dropout --gaps complete rgb=0.2,depth=0.5
  python benchmark/run.py --methods mmanet rfnet --tune 8 --dry-run
  python benchmark/run.py --methods mmanet dmrnet --untuned
  python benchmark/run.py --grid mmanet-ablation
  python benchmark/run.py --methods rfnet --results /tmp/results --device cpu --force
  python benchmark/run.py --list --data-root /data/nyuv2
"""

LEFT_BEHIND = 600.0
"""Seconds after which a half-written table or page is that of a killed process."""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = argparse.ArgumentParser(
        prog='benchmark/run.py',
        description='Trains methods, tests them on every subset of the modalities, and prints '
        'the tables. Finished experiments are skipped, interrupted ones are resumed.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(p)
    _add_how(p)
    return p


def _add_what(p: argparse.ArgumentParser) -> None:
    """Adds the options that say what is trained: they can change a score."""
    p.add_argument(
        '--methods',
        nargs='+',
        metavar='NAME[:KEY=VALUE,...]',
        default=[],
        help='methods to train, each with options of its own, e.g. mmanet:alpha=4,variant=official;'
        ' a method in a file of your own is path/to/file.py:name; --list prints the names',
    )
    p.add_argument(
        '--datasets',
        nargs='+',
        metavar='NAME[:KEY=VALUE,...]',
        default=['synth_faces', 'synth_rooms'],
        help='data sets to train and test on, e.g. arrays:width=32; default: the two embedded ones',
    )
    p.add_argument(
        '--seeds',
        nargs='+',
        type=int,
        help='one experiment for each seed, e.g. 0 1 2; default: 0, or those of the grid',
    )
    p.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='fields of the protocol (epochs, lr, sampler, rates, selection, ...) and options of a '
        'data set, e.g. epochs=30 sampler=bernoulli:0.3; DATASET.KEY=VALUE for one data set alone',
    )
    p.add_argument(
        '--tune',
        type=int,
        metavar='N',
        help="choose every method's hyper-parameters from N trials each, on the validation split, "
        'e.g. 8',
    )
    p.add_argument(
        '--untuned',
        action='store_true',
        help='leave out the values of results/settings.json: the options that are not typed are '
        "those of a method's paper, or its defaults",
    )
    p.add_argument(
        '--gaps',
        nargs='+',
        metavar='RATES',
        help='train once under each of several training gaps (values of the field rates; complete '
        'for none), e.g. complete rgb=0.2,depth=0.5, and print one table of all',
    )
    p.add_argument(
        '--grid',
        metavar='NAME',
        help='run a named comparison instead of --methods: '
        + '; '.join(f'{name} ({grid.about})' for name, grid in grids.GRIDS.items()),
    )


def _add_how(p: argparse.ArgumentParser) -> None:
    """Adds the options that say where and how to compute: they change no score."""
    p.add_argument(
        '--data-root',
        nargs='+',
        type=partial(user_path, what='--data-root'),
        default=[],
        metavar='PATH',
        help='where data that are not embedded lie, e.g. /data/casia_surf; with several, the data '
        'set is opened once for each',
    )
    p.add_argument(
        '--results',
        type=partial(user_path, what='--results'),
        default=str(ROOT / 'results'),
        metavar='FOLDER',
        help='folder that takes runs/, tables/ and index.html, e.g. /tmp/results '
        '(default: results/)',
    )
    p.add_argument(
        '--device',
        choices=('auto', 'cpu', 'cuda'),
        default='auto',
        help='where to compute, e.g. cpu; auto takes the GPU if there is one',
    )
    p.add_argument(
        '--workers',
        type=int,
        metavar='N',
        help='loader processes, e.g. 4; by default none for data in memory, else one per core',
    )
    p.add_argument(
        '--threads',
        type=int,
        metavar='N',
        help='threads that compute one operation, e.g. 4; default: OMP_NUM_THREADS where it is '
        'set, else 1 on a CPU',
    )
    p.add_argument(
        '--jobs',
        type=int,
        metavar='N',
        help='experiments that run at the same time, each in a process of its own, e.g. 2; '
        'default: on a CPU one for each core and thread if the data lie in memory, else 1',
    )
    p.add_argument('--dry-run', action='store_true', help='print the plan and the expected time')
    p.add_argument('--list', action='store_true', help='print the methods and data sets')
    p.add_argument('--force', action='store_true', help='run again what is recorded')


@telling
def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0 if all is recorded, or may run by the plan; 1 if something failed, or is refused in the
        plan.

    Raises:
        UserError: The arguments do not hold together, which is told with status 2.
    """
    args = parser().parse_args(argv)
    discover()
    if args.list:
        return show_list(args.data_root)
    refused: list[str] | None = [] if args.dry_run else None
    grid, machine = prepare(args, refused)
    able = grid if args.gaps is None else without_refused(grid, machine, args.dry_run)
    if refused is not None:
        return 0 if show_plan(able, machine, len(refused)) else 1
    # Other processes know nothing of what a Python program that calls this has registered.
    helper = partial(help_out, sys.argv[1:]) if argv is None else None
    ok = execute(able, machine, args.force, writer.brief, helper)
    shown = show_tables(grid, args.results, args.gaps is not None)
    return 0 if ok and shown else 1


def help_out(argv: list[str], before: Stamps, told: Reporter) -> bool:
    """Takes a share of a command's experiments, in a process of its own.

    Args:
        argv: The words of the command.
        before: What the command runs, and what was recorded of it when it began.
        told: Is told what happens.

    Returns:
        Whether everything is recorded.
    """
    args = parser().parse_args(argv)
    with (
        # The process that started this one has said all that is to be said of the plan.
        open(os.devnull, 'w') as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        discover()
        grid, machine = prepare(args)
    mine = [item for item in grid if any(e.folder in before for e in steps(item))]
    return Worker(machine, told, args.force, writer.brief, before).work(mine)


def show_tables(grid: plan.Grid, results: Path, by_gaps: bool = False) -> bool:
    """Writes the tables of the grid's data sets, prints them, and writes the page of all data sets.

    Returns:
        Whether all of that was written; an error line tells what was not, and why.
    """
    recorded, made, errors = plan.flat(grid), {}, []
    with contextlib.suppress(OSError):  # of another user; nothing depends on it
        sweep(results / 'tables', LEFT_BEHIND)
        sweep(results, LEFT_BEHIND, inside=False)  # the page; runs are swept under their locks
    names = dict.fromkeys(e.data.name for e in recorded)
    for name in names:
        write = partial(writer.write_tables, results, name, by_gaps=by_gaps)
        try:
            made[name] = store.up_to_date(writer.folder_of(name, results / 'runs'), write)
        except UserError as error:
            errors.append(error)
    for why in errors:
        print(f'error: {why}', file=sys.stderr)
    for name, table in made.items():
        writer.show(table, {e.protocol_id for e in recorded if e.data.name == name})
    return (not made or document.show(results)) and not errors


if __name__ == '__main__':
    command(main)
