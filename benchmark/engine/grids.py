"""Named grids: comparisons of several methods and settings that one command runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.errors import UserError, unknown
from benchmark.options import options_of
from benchmark.registry import DATASETS, lookup, parse_spec


@dataclass(frozen=True)
class NamedGrid:
    """What `--grid NAME` runs on each of the data sets.

    Attributes:
        about: What it shows, in one line.
        methods: Specs of methods.
        seeds: The seeds, unless others are given.
        gaps: Training gaps as of `--gaps`; None for those of the protocol.
        settings: Options of the data sets; the methods are run under each of them.
    """

    about: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    gaps: tuple[str, ...] | None = None
    settings: tuple[Mapping[str, str], ...] = ({},)


GRIDS = {
    'reference': NamedGrid(
        'the tables of the documentation: networks that were measured, with five seeds',
        (
            'complete',
            'modality_dropout',
            'customized',
            'hemis',
            'uhved',
            'robustseg',
            'rfnet',
            'mmformer',
            'gmd',
            'mmin',
            'redcore',
            'shaspec',
            'lcr',
            'm3ae',
            'dmrnet',
            'distilled',
            'mmanet',
            'mmanet:alpha=0',
            'mmanet:variant=official',
        ),
        seeds=(0, 1, 2, 3, 4),
    ),
    'mmanet-ablation': NamedGrid(
        'the parts of MMANet: losses of distillation, with and without MAR, and which are weak',
        (
            'modality_dropout',
            *(
                f'distilled:loss={loss}'
                for loss in ('logits', 'soft_target', 'fitnet', 'at', 'sp', 'pkt', 'mad')
            ),
            'mmanet:alpha=0',
            'mmanet:beta=0',
            'mmanet',
            'mmanet:weak=single',
            'mmanet:weak=all',
        ),
    ),
    'redcore-rates': NamedGrid(
        'RedCore and its equal supervision (rate=0) where more and more of the training is missing',
        ('modality_dropout', 'redcore', 'redcore:rate=0'),
        gaps=('complete', '0.1', '0.3', '0.5', '0.7', '0.9'),
    ),
    'sign-flip': NamedGrid(
        'one network for all subsets or one for each, by training samples and width',
        ('modality_dropout', 'customized', 'mmanet', 'mmin'),
        settings=tuple(
            {'train': str(train), 'width': str(width)}
            for train in (250, 1000, 4000)
            for width in (4, 8, 16)
        ),
    ),
}
"""The grids by name. Rates 0.1 to 0.9 are those that RedCore's released scripts name (in steps of
0.1); the losses are those that MMANet's paper compares with its own."""


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
    if name not in GRIDS:
        raise unknown('grid', name, GRIDS)
    grid = GRIDS[name]
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
