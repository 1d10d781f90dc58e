"""From the arguments of `benchmark/run.py` to experiments and the machine that runs them."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence

import torch

from benchmark.dataset import Dataset
from benchmark.engine import arguments, chosen, plan, together
from benchmark.engine.building import Machine, use_threads
from benchmark.engine.fitting import is_fitted
from benchmark.engine.grid_file import grid_of
from benchmark.engine.grids import EMBEDDED, NamedGrid, field_of
from benchmark.engine.jobs import usual
from benchmark.engine.memory import keep_freed
from benchmark.engine.protocol import Protocol
from benchmark.engine.slurm_options import device_of
from benchmark.engine.tuning import Search
from benchmark.errors import UserError, listing, unknown
from benchmark.files import make_folder
from benchmark.options import options_of
from benchmark.registry import DATASETS, METHODS, lookup, parse_spec
from benchmark.shown import terminal

LENGTH = ('epochs', 'batch_size')
"""Fields of the protocol that settle how long a training is."""


def prepare(
    args: argparse.Namespace, refused: list[str] | None = None
) -> tuple[plan.Grid, Machine]:
    """Returns the experiments of the arguments and the machine to run them on.

    Args:
        args: The arguments; what a grid runs is written into them.
        refused: Takes what a plan refuses; a run, which has None, ends there.

    Raises:
        UserError: The arguments do not hold together.
    """
    options = arguments.pairs(args.cfg_options)
    if args.subsets is not None:
        if 'subsets' in options:
            raise UserError('--subsets: expected no subsets in --cfg-options beside it')
        options['subsets'] = args.subsets
    named = fill(args, options)
    if not args.methods:
        raise UserError(f'--methods: expected some of {", ".join(sorted(METHODS.module_dict))}')
    device, gpus = place(args)
    use_threads(args.threads, device, args.jobs or len(gpus))
    keep_freed()
    if not args.dry_run:
        make_folder(args.results.resolve())
    grid, opened = _experiments(args, named, options, device, refused)
    if device == 'cuda' and not gpus:
        gpus = all_gpus(args, len(plan.flat(grid)))
        use_threads(args.threads, device, len(gpus))
    if args.tune is not None:
        for label in sorted({e.label for e in grid if not isinstance(e, Search)}):
            print(f'{label}: nothing to tune')
    jobs = args.jobs or usual(device, torch.get_num_threads(), opened, len(gpus))
    origin = named.origin if named else None
    how = args.workers, jobs, args.curves, args.visualizer or '', gpus, origin
    every = named.varied if named else {}
    varied = tuple(key for key, values in every.items() if len({*values}) > 1)
    return grid, Machine(device, *how, args.compile, args.deterministic, varied)


def place(args: argparse.Namespace) -> tuple[str, tuple[int, ...]]:
    """Returns the device, 'cpu' or 'cuda', and which GPUs the jobs get in turn.

    Without a choice, several jobs that were asked for share all that there are, and one alone
    computes on PyTorch's current GPU. Without a number of jobs, `all_gpus` says what there is.

    Raises:
        UserError: A GPU that was asked for is not there.
    """
    if args.launcher == 'slurm':  # what this machine has does not matter
        return device_of(args), ()
    wanted = f'--device {args.device}'
    chosen = args.gpus or ()
    if chosen:
        wanted = f'--gpus {",".join(map(str, chosen))}'
    elif args.device.startswith('cuda:'):
        chosen = (int(args.device[5:]),)
    if args.device == 'cpu' or not torch.cuda.is_available():
        if chosen or args.device.startswith('cuda'):
            raise UserError(f'{wanted}: no CUDA device was found')
        return 'cpu', ()
    count = torch.cuda.device_count()
    for number in chosen:
        if number >= count:
            there = f'the GPUs 0 to {count - 1}' if count > 1 else 'GPU 0 alone'
            raise UserError(f'{wanted}: expected some of {there}, found {number}')
    if not chosen and (args.jobs or 1) > 1:
        chosen = tuple(range(count))
    return 'cuda', tuple(chosen)


def all_gpus(args: argparse.Namespace, count: int) -> tuple[int, ...]:
    """Returns the GPUs that experiments share if neither GPUs nor a number of jobs was asked for.

    Empty where there is one of either, where nothing was typed, so that one process does all, and
    under `torchrun` or for tasks of Slurm, which give each process its own.

    Args:
        args: The arguments.
        count: How many experiments there are.
    """
    one = args.jobs is not None or not args.typed or arguments.processes() > 1
    gpus = 0 if one or args.launcher == 'slurm' else min(count, torch.cuda.device_count())
    return tuple(range(gpus)) if gpus > 1 else ()


def _experiments(
    args: argparse.Namespace,
    named: NamedGrid | None,
    options: dict[str, str],
    device: str,
    refused: list[str] | None,
) -> tuple[plan.Grid, list[Dataset]]:
    """Returns the experiments of all settings, and the data sets that were opened for them.

    Raises:
        UserError: The arguments do not hold together.
    """
    # What the methods of a grid have on a set that --datasets leaves out does not apply.
    also = (named.datasets or EMBEDDED) if named else ()
    chosen.check_meant(args.methods, [*args.datasets, *also])
    together.check_roots(args.datasets, args.data_root)
    grid: plan.Grid = []
    opened: dict[tuple[tuple[str, str], ...], list[Dataset]] = {}
    for setting in named.settings if named else [{}]:
        varied = {**options, **setting}
        plan.check_options(varied, args.datasets)
        # Data are opened anew only where the setting is one of theirs.
        own = tuple(i for i in setting.items() if field_of(i[0]) not in Protocol.fields())
        if own not in opened:
            found = plan.open_datasets(args.datasets, args.data_root, varied, refused)
            opened[own] = checked(found, options, refused, trains(args.methods))
        if args.mask is not None:
            check_mask(opened[own], args.gaps)
        # A method's options may differ between data sets; those with equal ones are one request.
        for methods, group in itertools.groupby(
            opened[own], lambda data: chosen.on(args.methods, data, named)
        ):
            asked = methods, args.seeds, varied, args.results.resolve(), device, args.tune
            request = plan.Request(*asked, args.gaps, refused, args.untuned, args.mask)
            grid += plan.experiments(request, list(group))
    every = [data for datasets in opened.values() for data in datasets]
    if named:
        chosen.tell_left_out(args.methods, named, every)
    return plan.once(grid), every


def check_mask(datasets: Sequence[Dataset], rates: Sequence[str] | None) -> None:
    """Checks that a mask manifest stands beside one data set, and beside no --gaps.

    Raises:
        UserError: It does not.
    """
    if len(datasets) > 1 or rates is not None:
        told = '--gaps' if rates is not None else ', '.join(d.name for d in datasets)
        raise UserError(f'--mask: expected one data set and no --gaps beside it, found {told}')


def checked(
    datasets: Sequence[Dataset],
    options: dict[str, str],
    refused: list[str] | None = None,
    trained: bool = True,
) -> list[Dataset]:
    """Checks the files of data sets and prints what the user should know about them.

    Args:
        datasets: The data sets.
        options: What was given in --cfg-options.
        refused: As in `listing`; takes data sets that cannot be used.
        trained: Whether some method is trained in epochs, whose number is then told.

    Returns:
        The data sets that can be used.

    Raises:
        UserError: A file cannot be used.
    """
    usable = []
    for data in datasets:
        with listing(data.name, refused):
            data.check()
            length = _length(data, options) if trained else ''
            for note in filter(None, (*data.notes, length)):
                print(f'{data.name}: {terminal(note)}')
            usable.append(data)
    return usable


def trains(specs: Sequence[str]) -> bool:
    """Returns whether some method is trained in epochs; one that is not known counts as such."""
    found = [METHODS.module_dict.get(parse_spec(spec, METHODS)[0]) for spec in specs]
    return not all(cls is not None and is_fitted(cls) for cls in found)


def _length(data: Dataset, options: dict[str, str]) -> str:
    """Says how long a training is, for data whose recipe says so: as given, or by the recipe."""
    given = [k for k in LENGTH if {k, f'{data.spec}.{k}'} & options.keys()]
    if not (data.recipe_note and given):
        return data.recipe_note
    merged = {k: options.get(f'{data.spec}.{k}', options.get(k, data.recipe[k])) for k in LENGTH}
    plural = '' if str(merged['epochs']) == '1' else 's'
    return (
        f'training: {merged["epochs"]} epoch{plural} with batches of {merged["batch_size"]} '
        f'({" and ".join(given)} as given)'
    )


def check_grid(grid: NamedGrid, datasets: Sequence[str], given: Mapping[str, str]) -> None:
    """Checks that a grid fits the data sets, and what else is given.

    Args:
        grid: The grid.
        datasets: Specs of the data sets.
        given: What --cfg-options says, and the grid's own options.

    Raises:
        UserError: No data set has an option of the grid, one lacks what the grid varies, or what
            it varies is given beside it.
    """
    for key, spec in itertools.product(grid.varied, datasets):
        (dataset, own), field = parse_spec(spec, DATASETS), field_of(key)
        if key not in (field, f'{dataset}.{field}'):
            continue  # it varies on another data set
        known = {*Protocol.fields(), *options_of(lookup(DATASETS, dataset))}
        if field not in known:
            raise UserError(
                f'--grid {grid.name}: expected data sets with the option {key}, which it varies: '
                f'{unknown(f"option of {dataset}", field, known)}'
            )
        beside = sorted({key, f'{dataset}.{field}'} & given.keys())
        if field in own or beside:
            where = 'options' if {*beside} & grid.options.keys() else '--cfg-options'
            told = f'{beside[0]} in {where}' if beside else f'{field} in {spec}'
            raise UserError(
                f'--grid {grid.name}: expected no {field} beside it, which it varies; '
                f'found {key} in vary and {told}'
            )
    plan.check_options({**grid.options, **grid.varied}, datasets, f'--grid {grid.name}')


def fill(args: argparse.Namespace, options: dict[str, str]) -> NamedGrid | None:
    """Puts what a grid runs into the arguments, and returns the grid, if there is one.

    What is given on the command line beside a grid applies in its place: seeds, data sets, and
    single options. What is compared cannot be given there.

    Args:
        args: The arguments of the command line.
        options: What --cfg-options says; the options of the grid are added.

    Raises:
        UserError: There is no such grid, or it does not fit the other arguments.
    """
    grid = grid_of(args.grid) if isinstance(args.grid, str) else args.grid
    args.datasets = args.datasets or list(grid and grid.datasets or EMBEDDED)
    if grid is None:
        args.seeds = args.seeds or [0]
        return None
    for option in ('methods', 'gaps', 'tune'):
        if getattr(args, option):
            raise UserError(f'--grid {grid.name}: expected no --{option} beside it')
    grid = grid.on(args.datasets)
    # KEY on the command line also replaces DATASET.KEY of the grid, which would go before it.
    kept = {k: v for k, v in grid.options.items() if not {k, field_of(k)} & options.keys()}
    options.update(kept)
    check_grid(grid, args.datasets, options)
    args.methods, args.seeds = list(grid.methods), args.seeds or list(grid.seeds)
    args.gaps, args.tune = None if grid.gaps is None else list(grid.gaps), grid.tune
    args.untuned = args.untuned or grid.untuned
    return grid
