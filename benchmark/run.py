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
from functools import partial  # noqa: E402

from benchmark.engine import arguments, forking, slurm_options  # noqa: E402
from benchmark.engine.grids import GRIDS  # noqa: E402
from benchmark.files import user_path  # noqa: E402
from benchmark.records import kinds  # noqa: E402
from benchmark.streams import Parser, command, telling, uninterrupted  # noqa: E402

EXAMPLES = """examples:
  python benchmark/run.py --methods mmanet rfnet
  python benchmark/run.py --methods mmanet:alpha=4 rfnet --seeds 0 1 2
  python benchmark/run.py --methods rfnet --datasets synth_rooms --cfg-options epochs=30 lr=5e-4
  python benchmark/run.py --methods rfnet --datasets arrays --data-root my.npz
  python benchmark/run.py --methods modality_dropout --gaps complete rgb=0.2,depth=0.5
  python benchmark/run.py --methods mmanet rfnet --tune 8 --dry-run
  python benchmark/run.py --methods mmanet dmrnet --untuned
  python benchmark/run.py --methods rfnet --curves --visualizer tensorboard
  python benchmark/run.py --grid mmanet-ablation
  python benchmark/run.py --methods rfnet --results /tmp/results --device cpu --force
  python benchmark/run.py --methods mmanet rfnet --seeds 0 1 2 --shard 1/3
  python benchmark/run.py --methods mmanet rfnet --launcher slurm --slurm gpus=1,time=8:00:00
  python benchmark/run.py --methods mmanet rfnet --corruptions --dry-run
  python benchmark/run.py --status /tmp/results
  python benchmark/run.py --list --data-root /data/nyuv2
"""


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = Parser(
        prog='benchmark/run.py',
        description='Trains methods, tests them on every subset of the modalities, and prints '
        'the tables. Finished experiments are skipped, interrupted ones are resumed.',
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.keys = arguments.protocol_fields
    _add_what(p)
    arguments.add_subsets(p)
    _add_gaps(p)
    _add_how(p)
    arguments.add_speed(p)
    slurm_options.add(p)
    arguments.add_curves(p)
    _add_which(p)
    p.set_defaults(typed=False)  # a Python program may plan, too
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
        help='data sets to train and test on, e.g. arrays:width=32; default: the two embedded '
        'ones, or those of the grid',
    )
    p.add_argument(
        '--seeds',
        nargs='+',
        type=arguments.seed,
        metavar='N',
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
        '--grid',
        metavar='NAME|FILE',
        help='run a comparison instead of --methods: that of a YAML file, e.g. sweep.yaml, or '
        + '; '.join(f'{name} ({grid.about})' for name, grid in GRIDS.items()),
    )


def _add_gaps(p: argparse.ArgumentParser) -> None:
    """Adds the options that say which training samples lack which modality."""
    p.add_argument(
        '--gaps',
        nargs='+',
        metavar='RATES',
        help='train once under each of several training gaps (values of the field rates; complete '
        'for none), e.g. complete rgb=0.2,depth=0.5, and print one table of all',
    )
    p.add_argument(
        '--mask',
        type=partial(user_path, what='--mask'),
        metavar='FILE',
        help='read which modalities each training sample has from a CSV file with the column id '
        'and one of 0 and 1 for each modality, e.g. gaps.csv',
    )
    p.add_argument(
        '--export-mask',
        type=partial(user_path, what='--export-mask'),
        metavar='FILE',
        help='write which modalities each training sample has to such a file, e.g. gaps.csv; with '
        '--dry-run nothing is trained',
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
        type=arguments.device,
        default='auto',
        help='where to compute: cpu, cuda, cuda:1 for the second GPU, or auto, which takes the GPU '
        'if there is one',
    )
    p.add_argument(
        '--gpus',
        type=arguments.gpus,
        metavar='N,...',
        help='GPUs that the jobs get in turn, e.g. 0,1; default: all, with --jobs 1 the first',
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
        'default: one for each GPU; on a CPU one for each core and thread if the data '
        'lie in memory; else 1',
    )


def _add_which(p: argparse.ArgumentParser) -> None:
    """Adds the options that say which experiments run now, and what is only shown."""
    p.add_argument(
        '--shard',
        type=arguments.shard,
        metavar='I/N',
        help='run the I-th of N shares of the experiments, e.g. 2/8; the same command with each of '
        '1/N to N/N runs all',
    )
    p.add_argument(
        '--budget',
        type=arguments.seconds,
        metavar='TIME',
        help='run what fits into this time by steps measured before, e.g. 4h, 90min or 1h30min, '
        'and do not begin the rest',
    )
    p.add_argument(
        '--status',
        nargs='?',
        type=partial(user_path, what='--status'),
        const=True,
        metavar='FOLDER',
        help='print what is done, running, resumable or failed in a results folder, '
        'e.g. /tmp/results (default: that of --results)',
    )
    arguments.add_corruptions(p)
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
    arguments.leave_words_to_first()
    args = parser().parse_args(argv)
    arguments.check_processes(args)
    if args.status is not None:
        from benchmark.engine import slurm_announced, status
        from benchmark.report.escaping import terminal

        results = args.results if args.status is True else args.status
        shown = status.show(results, terminal)
        slurm_announced.show(results)
        return shown
    arguments.check(args)
    slurm_options.check(args)
    kinds.check(args.corruptions, args.severities)
    if args.list:
        from benchmark.engine.listing import show_list

        return show_list(args.data_root)
    args.words, args.typed = sys.argv[1:] if argv is None else argv, argv is None
    if args.typed and arguments.processes() == 1:
        forking.load_beside(args)
    # PyTorch, which takes seconds to import, and which nothing above needs.
    with uninterrupted():
        from benchmark import running

    return running.start(args)


if __name__ == '__main__':
    command(main)
