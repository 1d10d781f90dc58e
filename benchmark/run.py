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
import traceback  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from mmengine.config import DictAction  # noqa: E402

from benchmark import cost, plan, tables  # noqa: E402
from benchmark.dataset import Dataset  # noqa: E402
from benchmark.errors import UserError  # noqa: E402
from benchmark.execution import failure, make_folder, run  # noqa: E402
from benchmark.experiment import (  # noqa: E402
    Experiment,
    Machine,
    build,
    loaders,
    quiet,
    splits,
)
from benchmark.hooks import TrainingDiverged  # noqa: E402
from benchmark.progress import Progress, clock  # noqa: E402
from benchmark.registry import BROKEN, DATASETS, METHODS, discover  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Returns the command line's parser."""
    p = argparse.ArgumentParser(
        prog='benchmark/run.py',
        description='Trains methods, tests them on every subset of the modalities, and prints '
        'the tables. Finished experiments are skipped, interrupted ones resumed.',
    )
    p.add_argument('--methods', nargs='+', metavar='NAME[:KEY=VALUE,...]', default=[])
    p.add_argument(
        '--datasets',
        nargs='+',
        metavar='NAME[:KEY=VALUE,...]',
        default=['synth_faces', 'synth_rooms'],
        help='default: the two embedded ones',
    )
    p.add_argument('--seeds', nargs='+', type=int, default=[0])
    p.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='fields of the protocol (epochs, lr, sampler, rates, selection, ...) and options of a '
        'dataset; DATASET.KEY=VALUE for one dataset alone',
    )
    p.add_argument('--data-root', nargs='+', type=Path, default=[], metavar='PATH')
    p.add_argument('--results', type=Path, default=ROOT / 'results', metavar='FOLDER')
    p.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    p.add_argument('--workers', type=int, default=0, help='loader processes, for data on disk')
    p.add_argument('--dry-run', action='store_true', help='print the plan and the expected time')
    p.add_argument('--list', action='store_true', help='print the methods and datasets')
    p.add_argument('--force', action='store_true', help='run again what is recorded')
    return p


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns 0 all recorded, 1 something failed, 2 bad arguments."""
    args = parser().parse_args(argv)
    try:
        discover()
        if args.list:
            return show_list(args.data_root)
        grid, machine = prepare(args)
        if args.dry_run:
            return show_plan(grid, machine)
        ok = execute(grid, machine, args.force)
        show_tables(grid, args.results)
        return 0 if ok else 1
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; the same command goes on from here', file=sys.stderr)
        return 130


def prepare(args: argparse.Namespace) -> tuple[list[Experiment], Machine]:
    """Returns the experiments of the arguments and the machine to run them on.

    Raises:
        UserError: The arguments do not hold together.
    """
    if not args.methods:
        raise UserError(f'--methods: expected some of {", ".join(sorted(METHODS.module_dict))}')
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    elif device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: no CUDA device was found')
    plan.check_options(args.cfg_options, args.datasets)
    opened = plan.open_datasets(args.datasets, args.data_root, args.cfg_options)
    results = args.results.resolve()
    make_folder(results)
    grid = plan.experiments(args.methods, opened, args.seeds, args.cfg_options, results, device)
    return grid, Machine(device, args.workers)


def execute(grid: list[Experiment], machine: Machine, force: bool) -> bool:
    """Runs what is not recorded; returns whether everything is recorded now."""
    todo = [e for e in grid if force or e.recorded() is None]
    if len(todo) < len(grid):
        print(f'{len(grid) - len(todo)} of {len(grid)} experiments are recorded already')
    progress = Progress(_epochs_to_train(todo, force), len(todo))
    return all([_attempt(e, machine, progress, force) for e in todo])


def _epochs_to_train(todo: list[Experiment], force: bool) -> dict[str, int]:
    """Returns per dataset the epochs of all networks that are not trained yet, teachers once."""
    everything = [x for e in todo for x in (e.teacher(), e) if x is not None]
    networks = {folder: x for x in everything for folder, _, _ in x.parts()}
    epochs: dict[str, int] = {}
    for folder, x in networks.items():
        if force or not (folder / 'trained.json').is_file():
            epochs[x.data.name] = epochs.get(x.data.name, 0) + x.protocol.epochs
    return epochs


def _attempt(e: Experiment, machine: Machine, progress: Progress, force: bool) -> bool:
    """Runs one experiment; a failure is recorded and does not stop the others."""
    progress.start(e.data.name, e.label, e.seed)
    try:
        record = run(e, machine, progress.report, force)
    except Exception as error:
        told = isinstance(error, UserError | TrainingDiverged)
        message = str(error) if told else f'{type(error).__name__}: {error}'
        where = failure(e, message, None if told else traceback.format_exc(), machine)
        progress.end(f'FAILED: {message}{where}')
        return False
    progress.end(tables.brief(record))
    return True


def show_tables(grid: list[Experiment], results: Path) -> None:
    """Writes the tables of the grid's datasets and prints them."""
    for data in {e.data.name: e.data for e in grid}.values():
        protocols = {e.protocol_id for e in grid if e.data.name == data.name}
        table = tables.write_tables(results, data.name)
        print(f'\n{tables.terminal(table, protocols)}')
        for line in table.problems:
            print(f'not counted: {line}')
        print(f'written: {results / "tables" / data.name}.md, .tex, .csv')


def show_plan(grid: list[Experiment], machine: Machine) -> int:
    """Prints every experiment, whether it is recorded, and the time it is expected to take."""
    total = 0.0
    trained: set[Path] = set()
    for e in grid:
        line = f'{e.data.name}  {e.label}  seed {e.seed}  {e.protocol_id}'
        if e.recorded() is not None:
            print(f'recorded  {line}')
            continue
        with quiet():
            seconds = _expected_seconds(e, machine, trained)
        total += seconds
        print(f'to run    {line}  about {clock(seconds)}', flush=True)
    print(f'expected: {clock(total)} on {machine.device}, from steps measured just now')
    return 0


def _expected_seconds(e: Experiment, machine: Machine, trained: set[Path]) -> float:
    """Forecasts one experiment; adds the folders of its networks to `trained`, teachers once."""
    method, teacher, seconds = build(e, machine.device), e.teacher(), 0.0
    if teacher is not None:
        mentor = build(teacher, machine.device)
        folder, _, _ = part = teacher.parts()[0]
        if folder not in trained and not (folder / 'trained.json').is_file():
            seconds += cost.forecast(mentor, loaders(teacher, part, machine), e.protocol)[0]
            trained.add(folder)
        method.set_teacher(mentor)
    new = [p for p in e.parts() if p[0] not in trained and not (p[0] / 'trained.json').is_file()]
    trained.update(folder for folder, _, _ in new)
    both = loaders(e, e.parts()[-1], machine)
    training, each = cost.forecast(method, both, e.protocol)
    return seconds + training * len(new) + each * len(splits(e.data, 'val'))


def show_list(roots: list[Path]) -> int:
    """Prints every method and dataset with one line each."""
    print('methods')
    for name, cls in sorted(METHODS.module_dict.items()):
        print(f'  {name:20} {_first_line(cls)}')
    print('datasets')
    for name, cls in sorted(DATASETS.module_dict.items()):
        print(f'  {name:20} {_first_line(cls)} [{_found(cls, name, roots)}]')
    for file, why in BROKEN.items():
        print(f'  {file} could not be imported: {why}')
    return 0


def _first_line(cls: Any) -> str:
    return (cls.__doc__ or '').strip().split('\n')[0]


def _found(cls: type[Dataset], name: str, roots: list[Path]) -> str:
    if cls.embedded:
        return 'embedded'
    try:
        opened = plan.open_datasets([name], roots, {})
    except UserError as error:
        return f'not found: {error}'
    return f'found: {", ".join(d.name for d in opened)}'


if __name__ == '__main__':
    sys.exit(main())
