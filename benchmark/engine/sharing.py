"""Shares of a command's experiments, for schedulers that start one command many times."""

from __future__ import annotations

import heapq
import math
from collections import deque
from pathlib import Path

from benchmark.engine.arguments import Shard
from benchmark.engine.experiment import Experiment
from benchmark.engine.grid import steps
from benchmark.engine.plan import Grid
from benchmark.engine.tuning import Search

Group = deque[tuple[Experiment | Search, int]]
"""Items of a grid that share a teacher or encoders, or that train them for the others; with each
the number of networks that it trains without what is shared."""


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
    fair = math.ceil(sum(networks for group in groups for _, networks in group) / shard.total)
    pieces = [piece for group in groups for piece in _pieces(group, fair)]
    # What each share has, and its number: the least comes first, of equals the first share. Shares
    # beyond the number of pieces stay empty.
    shares = [(0, number) for number in range(1, min(shard.total, len(pieces)) + 1)]
    mine: set[int] = set()
    for size, items in sorted(pieces, key=lambda piece: -piece[0]):
        load, number = shares[0]
        heapq.heapreplace(shares, (load + size, number))
        if number == shard.number:
            mine |= {id(item) for item in items}
    return [item for item in grid if id(item) in mine]


def _groups(grid: Grid) -> list[Group]:
    """Returns the groups in the order in which their last items stand in the grid.

    A grid file may name very many experiments. So the groups are not searched for a folder: each
    item knows into which later item's group its own has gone.
    """
    groups: dict[int, Group] = {}
    into: list[int] = []
    owner: dict[Path, int] = {}
    for number, item in enumerate(grid):
        trained = steps(item)
        folders = {x.folder for e in trained for x in (e, *e.earlier.values())}
        group = Group([(item, sum(len(e.parts) for e in trained))])
        # Of a grid in which a teacher comes after its students, several groups become one.
        for before in sorted({_last(into, owner[folder]) for folder in folders & owner.keys()}):
            group = _joined(groups.pop(before), group)
            into[before] = number
        groups[number] = group
        into.append(number)
        owner |= dict.fromkeys(folders, number)
    return list(groups.values())


def _last(into: list[int], number: int) -> int:
    """Returns the last item of the group of an item, and shortens the way there."""
    while into[number] != number:
        into[number] = into[into[number]]
        number = into[number]
    return number


def _joined(first: Group, second: Group) -> Group:
    """Returns the items of two groups in one of them: the smaller one moves."""
    if len(first) < len(second):
        second.extendleft(reversed(first))
        return second
    first.extend(second)
    return first


def _pieces(group: Group, fair: int) -> list[tuple[int, list[Experiment | Search]]]:
    """Splits a group that is larger than a fair share; returns the networks of each piece, too."""
    pieces: list[tuple[int, list[Experiment | Search]]] = []
    for item, networks in group:
        if not pieces or pieces[-1][0] + networks > fair:
            pieces.append((0, []))
        size, items = pieces.pop()
        items.append(item)
        pieces.append((size + networks, items))
    return pieces
