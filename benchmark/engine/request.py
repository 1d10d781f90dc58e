"""From the arguments of `benchmark/run.py` to experiments and the machine that runs them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch

from benchmark.dataset import Dataset
from benchmark.engine import plan
from benchmark.engine.arguments import pairs
from benchmark.engine.building import Machine, use_threads
from benchmark.engine.execution import make_folder
from benchmark.engine.grids import NamedGrid, grid_of
from benchmark.engine.jobs import usual
from benchmark.engine.tuning import Search
from benchmark.errors import UserError, listing
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
        args: The arguments.
        refused: Takes what a plan refuses; a run, which has None, ends there.

    Raises:
        UserError: The arguments do not hold together.
    """
    options = pairs(args.cfg_options)
    named = fill(args, options)
    if not args.methods:
        raise UserError(f'--methods: expected some of {", ".join(sorted(METHODS.module_dict))}')
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    elif device == 'cuda' and args.launcher == 'local' and not torch.cuda.is_available():
        raise UserError('--device cuda: no CUDA device was found')
    use_threads(args.threads, device)
    opened: list[Dataset] = []
    for setting in named.settings if named else ({},):
        varied = {**options, **setting}
        plan.check_options(varied, args.datasets)
        opened += plan.open_datasets(args.datasets, args.data_root, varied, refused)
    opened = checked(opened, options, refused)
    results = args.results.resolve()
    make_folder(results)
    asked = args.methods, args.seeds, options, results, device, args.tune, args.gaps
    request = plan.Request(*asked, refused, args.untuned, args.mask)
    grid = plan.experiments(request, opened)
    if args.tune is not None:
        for label in sorted({e.label for e in grid if not isinstance(e, Search)}):
            print(f'{label}: nothing to tune')
    jobs = args.jobs or usual(device, torch.get_num_threads(), opened)
    return grid, Machine(device, args.workers, jobs, args.curves, args.visualizer or '')


def checked(
    datasets: Sequence[Dataset], options: dict[str, str], refused: list[str] | None = None
) -> list[Dataset]:
    """Checks the files of data sets and prints what the user should know about them.

    Args:
        datasets: The data sets.
        options: What was given in --cfg-options.
        refused: As in `listing`; takes data sets that cannot be used.

    Returns:
        The data sets that can be used.

    Raises:
        UserError: A file cannot be used.
    """
    usable = []
    for data in datasets:
        with listing(data.name, refused):
            data.check()
            for note in filter(None, (*data.notes, _length(data, options))):
                print(f'{data.name}: {terminal(note)}')
            usable.append(data)
    return usable


def _length(data: Dataset, options: dict[str, str]) -> str:
    """Says how long a training is, for data whose recipe says so: as given, or by the recipe."""
    given = [k for k in LENGTH if {k, f'{data.spec}.{k}'} & options.keys()]
    if not (data.recipe_note and given):
        return data.recipe_note
    merged = {k: options.get(f'{data.spec}.{k}', options.get(k, data.recipe[k])) for k in LENGTH}
    return (
        f'training: {merged["epochs"]} epochs with batches of {merged["batch_size"]} '
        f'({" and ".join(given)} as given)'
    )


def named_grid(name: str, datasets: Sequence[str], given: Mapping[str, str]) -> NamedGrid:
    """Returns a grid, once it is certain that it fits the other arguments.

    Args:
        name: Its name.
        datasets: Specs of the data sets.
        given: What --cfg-options says.

    Raises:
        UserError: There is no such grid, a data set lacks an option that the grid varies, or the
            option is given beside the grid.
    """
    grid = grid_of(name)
    for key in dict.fromkeys(key for setting in grid.settings for key in setting):
        for spec in datasets:
            dataset, own = parse_spec(spec)
            if key not in options_of(lookup(DATASETS, dataset)):
                raise UserError(
                    f'--grid {name}: expected data sets with the option {key}, which it varies; '
                    f'{dataset} has none'
                )
            if key in own or {key, f'{dataset}.{key}'} & given.keys():
                raise UserError(f'--grid {name}: expected no {key} beside it, which it varies')
    return grid


def fill(args: argparse.Namespace, given: Mapping[str, str]) -> NamedGrid | None:
    """Puts what a named grid runs into the arguments, and returns the grid, if there is one.

    Args:
        args: The arguments of the command line.
        given: What --cfg-options says.

    Raises:
        UserError: There is no such grid, or it does not fit the other arguments.
    """
    if args.grid is None:
        args.seeds = args.seeds or [0]
        return None
    named = named_grid(args.grid, args.datasets, given)
    for option in ('methods', 'gaps', 'tune'):
        if getattr(args, option):
            raise UserError(f'--grid {args.grid}: expected no --{option} beside it')
    args.methods, args.seeds = list(named.methods), args.seeds or list(named.seeds)
    args.gaps = None if named.gaps is None else list(named.gaps)
    return named
