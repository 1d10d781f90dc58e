"""Shares of a command's experiments, for schedulers that start one command many times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from benchmark.engine.arguments import Shard
from benchmark.engine.experiment import Experiment
from benchmark.engine.grid import steps
from benchmark.engine.plan import Grid
from benchmark.engine.tuning import Search


@dataclass
class Group:
    """Items of a grid that share a teacher or encoders, or that train them for the others.

    Attributes:
        items: The items in the order of the grid.
        networks: How many networks each of them trains, without what is shared.
        folders: The folders of their experiments and of what is trained before them.
    """

    items: list[Experiment | Search]
    networks: list[int]
    folders: set[Path]


def share_of(grid: Grid, shard: Shard) -> Grid:
    """Returns one share of a grid; all shares together are the grid, and no two overlap.

    The shares depend on the grid alone, and neither on what is recorded nor on the machine. They
    have about the same number of networks to train. The students of a teacher stay in one share,
    unless there are more of them than a fair share holds.

    Args:
        grid: What all shares together run.
        shard: Which share.
    """
    groups = _groups(grid)
    fair = math.ceil(sum(sum(group.networks) for group in groups) / shard.total)
    pieces = [piece for group in groups for piece in _pieces(group, fair)]
    loads = [0] * shard.total
    mine: set[int] = set()
    # The largest first, each to the share that has least; of equals the first.
    for piece in sorted(pieces, key=lambda piece: -sum(piece.networks)):
        least = loads.index(min(loads))
        loads[least] += sum(piece.networks)
        if least == shard.number - 1:
            mine |= {id(item) for item in piece.items}
    return [item for item in grid if id(item) in mine]


def _groups(grid: Grid) -> list[Group]:
    groups: list[Group] = []
    for item in grid:
        trained = steps(item)
        new = Group(
            [item],
            [sum(len(e.parts) for e in trained)],
            {x.folder for e in trained for x in (e, *e.earlier.values())},
        )
        # Of a grid in which a teacher comes after its students, several groups become one.
        apart = []
        for group in groups:
            if group.folders & new.folders:
                new = Group(
                    group.items + new.items,
                    group.networks + new.networks,
                    group.folders | new.folders,
                )
            else:
                apart.append(group)
        groups = [*apart, new]
    return groups


def _pieces(group: Group, fair: int) -> list[Group]:
    """Splits a group that is larger than a fair share."""
    pieces: list[Group] = []
    for item, networks in zip(group.items, group.networks, strict=True):
        if not pieces or sum(pieces[-1].networks) + networks > fair:
            pieces.append(Group([], [], group.folders))
        pieces[-1].items.append(item)
        pieces[-1].networks.append(networks)
    return pieces
