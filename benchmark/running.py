"""What `benchmark/run.py` does once its arguments are read: it plans, trains, tests and shows.

Everything that takes long to import is imported here, so that arguments are refused without it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmark import helpers
from benchmark.engine import arguments, corruption_runs, forking, plan, slurm
from benchmark.engine.budget import within
from benchmark.engine.building import Machine, use_gpu
from benchmark.engine.dry_run import show_plan
from benchmark.engine.grid import execute, steps
from benchmark.engine.manifest import export
from benchmark.engine.parallel import helping, processes
from benchmark.engine.picking import Trainer, picked, show_teachers, teach
from benchmark.engine.refused import without_refused
from benchmark.engine.request import prepare
from benchmark.engine.robustness import Request
from benchmark.engine.sharing import share_of
from benchmark.errors import UserError, noting
from benchmark.files import sweep
from benchmark.records import store
from benchmark.records.kinds import SEVERITIES
from benchmark.registry import discover
from benchmark.report import robustness_tables, writer
from benchmark.report.page import document
from benchmark.report.table import Table

LEFT_BEHIND = 600.0
"""Seconds after which a half-written table or page is that of a killed process."""


def start(args: argparse.Namespace) -> int:
    """Does what the arguments say, together with the other processes of `torchrun`, if there are.

    Args:
        args: The arguments. Unless they were typed, no other process helps: it knows nothing of
            what the Python program that calls this has registered.

    Returns:
        The exit status of the command, as of `benchmark.run.main`.

    Raises:
        UserError: The arguments do not hold together.
    """
    if arguments.processes() == 1:
        return _start(args, args.typed)
    device = 'cuda' if args.device != 'cpu' and torch.cuda.is_available() else 'cpu'
    with processes.joined(device):
        return lead(args) if processes.leads() else follow(args)


def lead(args: argparse.Namespace) -> int:
    """Does what the arguments say, as the leading one of several processes."""
    status = 2
    try:
        status = _start(args, typed=False)
    except (Exception, SystemExit):
        processes.say(status)
        raise
    processes.say(status)
    return status


def follow(args: argparse.Namespace) -> int:
    """Helps the leading process; what is wrong with the arguments is told by that one."""
    discover()
    try:
        grid, machine = planned(args)
    except (Exception, SystemExit) as error:
        status = processes.hear()
        if not isinstance(error, UserError):
            raise  # the leading process tells it in one line, without its traceback
        return status
    return helping.help_out((e for item in grid for e in steps(item)), machine)


def planned(
    args: argparse.Namespace, refused: list[str] | None = None
) -> tuple[plan.Grid, Machine]:
    """Plans a command, in all processes of `torchrun`; arguments and errors as of `prepare`."""

    def make() -> tuple[plan.Grid, Machine]:
        grid, machine = prepare(args, refused)
        if args.corruptions and (found := [e for e in plan.flat(grid) if e.data.task.volumes]):
            raise UserError(
                f'--corruptions on {found[0].data.name}: expected no volumes (network=unet3d), of '
                'which no corruption is defined'
            )
        if processes.count() == 1:
            return grid, machine
        helping.check(plan.flat(grid))
        return grid, replace(machine, jobs=1)

    return processes.agreed(make, lambda found: [plan.plain(x).identity for x in found[0]])


def _start(args: argparse.Namespace, typed: bool) -> int:
    """Does what the arguments say, as of `start`, in the process that decides."""
    discover()
    refused: list[str] | None = [] if args.dry_run else None
    # Planning writes what a named grid means into the arguments; helpers plan from those typed.
    asked = argparse.Namespace(**vars(args))
    jobs = helpers.help_out, helpers.help_test, helpers.help_teach
    helper, tester, trainer = (partial(job, asked) if typed else None for job in jobs)
    grid, machine = planned(args, refused)
    if machine.device != 'cpu':
        forking.forget()
    if machine.grid:
        told = f'grid {machine.grid["name"]}: {count(grid)} experiments'
        print(f'{told} (SHA-256 {machine.grid["sha256"][:12]})')
    if args.export_mask is not None and args.only is None:
        export(args.export_mask, ((e.data, e.protocol, e.seed) for e in plan.flat(grid)))
    able = grid if args.gaps is None else without_refused(grid, machine, args.dry_run)
    if args.launcher == 'slurm':
        return hand_over(able, machine, args, bool(refused))
    able, taught = own_share(able, args, machine, trainer if _apart(args) else None)
    if (args.shard or args.only) and not able and not refused:
        return 0 if taught else 1
    if args.budget is not None or args.dry_run:
        use_gpu(machine.gpus)  # which the measuring needs
    if args.budget is not None:
        able = within(able, machine if typed else replace(machine, jobs=1), args.budget)
    if refused is not None:
        return 0 if show_plan(able, machine, len(refused), request_of(args)) else 1
    task = _apart(args)
    ok = execute(able, machine, args.force, writer.brief, helper, task)
    if request := request_of(args):
        ok &= corruption_runs.execute(plan.flat(able), machine, request, tester, task)
    shown = show_tables(grid, args.results, args.gaps is not None, request is not None)
    return 0 if ok and shown and taught else 1


def _apart(args: argparse.Namespace) -> bool:
    """Returns whether even one experiment trains in a process of its own.

    Nobody sees a task of Slurm die. A process beside one that holds a GPU may not get it.
    """
    return args.only is not None and not torch.cuda.is_initialized()


def own_share(
    grid: plan.Grid, args: argparse.Namespace, machine: Machine, trainer: Trainer | None
) -> tuple[plan.Grid, bool]:
    """Returns what of a command this process runs; teachers that are its share are trained.

    Args:
        grid: What the command runs.
        args: Its arguments.
        machine: Where to train.
        trainer: As of `teach`.

    Returns:
        What is its share, and whether all of its teachers are trained; an error line tells how many
        are not.

    Raises:
        UserError: A folder of --only is none of the command's.
    """
    if args.only is not None:
        own, teachers = picked(grid, args.only, args.results)
        if args.dry_run:
            show_teachers(teachers, machine)
            return own, True
        return own, teach(teachers, machine, trainer)
    if args.shard is not None:
        own = share_of(grid, args.shard)
        print('share {} of {}: {} of {} experiments'.format(*args.shard, *map(count, (own, grid))))
        return own, True
    return grid, True


def hand_over(grid: plan.Grid, machine: Machine, args: argparse.Namespace, refused: bool) -> int:
    """Hands a command to Slurm, and shows the tables of what is recorded already.

    Args:
        grid: What the command runs.
        machine: Where the tasks compute.
        args: Its arguments.
        refused: Whether a part is refused, in a plan.

    Returns:
        The exit status of the command.

    Raises:
        UserError: Slurm does not answer or refuses the jobs, or the folder cannot be written.
    """
    request = request_of(args)
    slurm.hand_over(grid, machine, args, request)
    if args.dry_run or not any(e.recorded() for e in plan.flat(grid)):
        return int(refused)
    shown = show_tables(grid, args.results, args.gaps is not None, request is not None)
    return 0 if shown else 1


def count(grid: plan.Grid) -> int:
    """Returns how many experiments and trials a grid has."""
    return sum(len(steps(item)) for item in grid)


def request_of(args: argparse.Namespace) -> Request | None:
    """Returns which corruptions the arguments ask for."""
    return args.corruptions and Request(args.corruptions, args.severities or SEVERITIES)


def show_tables(
    grid: plan.Grid, results: Path, by_gaps: bool = False, corrupted: bool = False
) -> bool:
    """Shows the tables of the grid's protocols, and writes the page of all data sets.

    Args:
        grid: The grid.
        results: The results folder.
        by_gaps: Whether to make the tables by training gaps, too.
        corrupted: Whether to make the tables of the tests under corruptions, too.

    Returns:
        Whether all of that was written; an error line tells what was not, and why.
    """
    protocols: dict[str, set[str]] = {}
    for e in plan.flat(grid):
        protocols.setdefault(e.data.name, set()).add(e.protocol_id)
    return show(protocols, results, by_gaps, corrupted)


def show(
    protocols: Mapping[str, set[str] | None],
    results: Path,
    by_gaps: bool = False,
    corrupted: bool = False,
) -> bool:
    """Writes the tables of data sets, prints them, and writes the page of all data sets.

    Args:
        protocols: Name of each data set -> the protocol ids to print, None for all.
        results: The results folder.
        by_gaps: Whether to make the tables by training gaps, too.
        corrupted: Whether to make the tables of the tests under corruptions, too.

    Returns:
        Whether all of that was written; an error line tells what was not, and why.
    """
    made: dict[str, Table] = {}
    errors: list[UserError] = []
    with contextlib.suppress(OSError):  # of another user; nothing depends on it
        sweep(results / 'tables', LEFT_BEHIND)
        sweep(results, LEFT_BEHIND, inside=False)  # the page; runs are swept under their locks
    for name in protocols:
        write = partial(writer.write_tables, results, name, by_gaps=by_gaps)
        with noting(f'{name}: its tables', errors):
            made[name] = store.up_to_date(writer.folder_of(name, results / 'runs'), write)
    for why in errors:
        print(f'error: {why}', file=sys.stderr)
    for name, table in made.items():
        writer.show(table, protocols[name])
        if corrupted:
            with contextlib.suppress(writer.Lacking):  # why nothing was tested has been told
                root = writer.folder_of(name, results / 'runs')
                texts = robustness_tables.of(results, table, root)
                robustness_tables.show(results, table, texts)
    return (not made or document.show(results)) and not errors
