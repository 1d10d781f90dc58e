"""Named grids: comparisons of several methods and settings that one command runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmark.errors import unknown


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


def grid_of(name: str) -> NamedGrid:
    """Returns a grid.

    Raises:
        UserError: There is no such grid; the nearest name is given.
    """
    if name not in GRIDS:
        raise unknown('grid', name, GRIDS)
    return GRIDS[name]
