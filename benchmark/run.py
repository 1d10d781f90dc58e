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
from typing import Any  # noqa: E402

import torch  # noqa: E402
from mmengine.config import DictAction  # noqa: E402

from benchmark.dataset import Dataset  # noqa: E402
from benchmark.engine import cost, plan, tuning  # noqa: E402
from benchmark.engine.execution import describe, failure, make_folder, run  # noqa: E402
from benchmark.engine.experiment import (  # noqa: E402
    Experiment,
    Machine,
    build,
    loaders,
    quiet,
    splits,
)
from benchmark.errors import COMPLETE_ONLY, UserError  # noqa: E402
from benchmark.progress import Progress, clock  # noqa: E402
from benchmark.registry import BROKEN, DATASETS, METHODS, discover  # noqa: E402
from benchmark.report import writer  # noqa: E402


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
    p.add_argument('--workers', type=int, help='loader processes; by default as the data need')
    p.add_argument(
        '--tune',
        type=int,
        metavar='N',
        help="choose every method's hyper-parameters from N trials each, on the validation split",
    )
    p.add_argument(
        '--patterns',
        nargs='+',
        metavar='RATES',
        help='train under each of several missing rates (the field rates; complete for no gaps) '
        'and print one table of training pattern by test subset',
    )
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
        by_pattern = args.patterns is not None
        able = refuse(grid, machine, args.dry_run) if by_pattern else grid
        if args.dry_run:
            return show_plan(able, machine)
        ok = execute(able, machine, args.force)
        show_tables(grid, args.results, by_pattern)
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
    grid = plan.experiments(
        args.methods,
        opened,
        args.seeds,
        args.cfg_options,
        results,
        device,
        args.tune,
        args.patterns,
    )
    if args.tune is not None:
        for label in sorted({e.label for e in grid if type(e) is Experiment}):
            print(f'{label}: nothing to tune')
    return grid, Machine(device, args.workers)


def refuse(grid: list[Experiment], machine: Machine, dry_run: bool) -> list[Experiment]:
    """Names and records what cannot train on its data, and returns the others.

    Raises:
        UserError: There are no others.
    """
    why = plan.refusals(grid)
    refused = [e for e in grid if e.folder in why and not isinstance(e, tuning.Trial)]
    for line in dict.fromkeys(f'{e.data.name}  {_named(e)}' for e in refused):
        print(f'not run   {line}  it {COMPLETE_ONLY}')
    if len(why) == len(grid):
        raise UserError(f'--patterns: nothing is left to run: {next(iter(why.values()))}')
    if not dry_run:
        for e in refused:
            failure(e, why[e.folder], None, machine)
    return [e for e in grid if e.folder not in why]


def _named(e: Experiment) -> str:
    """Returns an experiment's label, with the gaps of its training data."""
    return f'{e.label}  rates={e.protocol.rates}' if e.protocol.rates else e.label


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
    """Runs one experiment; a failure is recorded and does not stop the others.

    A trial may fail without harm: it is never chosen.
    """
    progress.start(e.data.name, _named(e), e.seed)
    if isinstance(e, tuning.Trial):
        progress.end(tuning.brief(e, tuning.attempt(e, machine, progress.report, force)))
        return True
    try:
        record = run(e, machine, progress.report, force)
    except Exception as error:
        message, trace = describe(error)
        where = failure(e, message, trace, machine)
        progress.end(f'FAILED: {message}{where}')
        return False
    progress.end(writer.brief(record))
    return True


def show_tables(grid: list[Experiment], results: Path, by_pattern: bool = False) -> None:
    """Writes the tables of the grid's datasets and prints them."""
    for data in {e.data.name: e.data for e in grid}.values():
        protocols = {e.protocol_id for e in grid if e.data.name == data.name}
        writer.show(writer.write_tables(results, data.name, by_pattern=by_pattern), protocols)
        for name in (data.name, f'{data.name}-patterns')[: 1 + by_pattern]:
            print(f'written: {results / "tables" / name}.md, .tex, .csv')


def show_plan(grid: list[Experiment], machine: Machine) -> int:
    """Prints every experiment, whether it is recorded, and the time it is expected to take."""
    total = 0.0
    trained: set[Path] = set()
    measured: dict[tuple[str, str], tuple[float, float, float]] = {}
    for e in grid:
        line = f'{e.data.name}  {_named(e)}  seed {e.seed}  {e.protocol_id}'
        if e.recorded() is not None:
            print(f'recorded  {line}')
            continue
        with quiet():
            seconds = _expected_seconds(e, machine, trained, measured)
        total += seconds
        print(f'to run    {line}  about {clock(seconds)}', flush=True)
    print(f'expected: {clock(total)} on {machine.device}, from steps measured just now')
    return 0


def _expected_seconds(
    e: Experiment,
    machine: Machine,
    trained: set[Path],
    measured: dict[tuple[str, str], tuple[float, float, float]],
) -> float:
    """Forecasts one experiment; adds the folders of its networks to `trained`, teachers once.

    One measurement serves all seeds and trials of a method on a dataset.
    """
    key = e.data.name, e.spec
    if key not in measured:
        measured[key] = _measure(e, machine)
    teaching, training, each = measured[key]
    teacher = e.teacher()
    seconds = {folder: training for folder, _, _ in e.parts()}
    seconds |= {folder: teaching for folder, _, _ in (teacher.parts() if teacher else [])[:1]}
    new = {f for f in seconds if f not in trained and not (f / 'trained.json').is_file()}
    trained |= new
    return sum(seconds[f] for f in new) + each * len(splits(e.data, 'val'))


def _measure(e: Experiment, machine: Machine) -> tuple[float, float, float]:
    """Returns seconds to train the teacher, to train one network, and to test one sample."""
    method, teacher, teaching = build(e, machine.device), e.teacher(), 0.0
    if teacher is not None:
        mentor = build(teacher, machine.device)
        both = loaders(teacher, teacher.parts()[0], machine)
        teaching = cost.forecast(mentor, both, e.protocol)[0]
        method.set_teacher(mentor)
    training, each = cost.forecast(method, loaders(e, e.parts()[-1], machine), e.protocol)
    return teaching, training, each


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
    if not roots:
        return f'needs --data-root: {cls.how_to_get}'
    try:
        opened = plan.open_datasets([name], roots, {})
    except UserError as error:
        return f'not found: {error}'
    return f'found: {", ".join(d.name for d in opened)}'


if __name__ == '__main__':
    sys.exit(main())
