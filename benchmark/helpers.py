"""What each of several processes of a command does; it plans the command once more."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmark.engine import corruption_runs, plan
from benchmark.engine.again import Stamps
from benchmark.engine.building import Machine
from benchmark.engine.grid import Worker, steps
from benchmark.engine.picking import picked, train_teacher
from benchmark.engine.request import prepare
from benchmark.engine.robustness import Request
from benchmark.progress import Reporter
from benchmark.records.kinds import SEVERITIES
from benchmark.registry import discover
from benchmark.report import writer
from benchmark.streams import silent


def help_out(args: argparse.Namespace, before: Stamps, told: Reporter) -> bool:
    """Takes a share of a command's experiments, in a process of its own.

    Args:
        args: The arguments of the command.
        before: What the command runs, and what was recorded of it when it began.
        told: Is told what happens.

    Returns:
        Whether everything is recorded.
    """
    grid, machine = again(args)
    mine = [item for item in grid if any(e.folder in before for e in steps(item))]
    return Worker(machine, told, args.force, writer.brief, before).work(mine)


def help_test(args: argparse.Namespace, folders: set[Path], told: Reporter) -> bool:
    """Takes a share of a command's tests under corruptions, in a process of its own.

    Args:
        args: The arguments of the command.
        folders: The folders of the runs that are tested.
        told: Is told what happens.

    Returns:
        Whether everything is tested.
    """
    grid, machine = again(args)
    mine = [e for e in plan.flat(grid) if e.folder in folders]
    request = Request(args.corruptions, args.severities or SEVERITIES)
    return corruption_runs.work(corruption_runs.pending(mine, request), machine, request, told)


def help_teach(args: argparse.Namespace, folder: Path, told: Reporter) -> bool:
    """Trains a teacher, or encoders, of a command's --only, in a process of its own.

    Args:
        args: The arguments of the command.
        folder: The folder of the teacher.
        told: Is told what happens.

    Returns:
        Whether it is trained.
    """
    grid, machine = again(args)
    _, teachers = picked(grid, args.only, args.results)
    # None is left where another process has trained it meanwhile.
    return all(train_teacher(e, machine, told) for e in teachers if e.folder == folder)


def again(args: argparse.Namespace) -> tuple[plan.Grid, Machine]:
    """Plans a command once more, silently: the process that started this one has said it all."""
    with silent():
        discover()
        return prepare(args)
