"""Hands the experiments of a command to Slurm, as arrays of tasks, through submitit.

Each task runs the same command for its own experiments, in the same results folder. Teachers that
several tasks need, and encoders that are trained first, have tasks of their own; those that need
them wait.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.engine import (
    corruption_runs,
    slurm_announced,
    slurm_jobs,
    slurm_options,
    slurm_task,
)
from benchmark.engine.building import Machine
from benchmark.engine.grid import is_done, steps
from benchmark.engine.locks import BEAT, STALE, Busy, holding
from benchmark.engine.picking import Item, Unit, units
from benchmark.engine.plan import Grid, flat
from benchmark.engine.robustness import Request
from benchmark.engine.slurm_options import Options
from benchmark.errors import UserError
from benchmark.files import ROOT

COMMAND = (sys.executable, str(ROOT / 'benchmark' / 'run.py'))
"""What a task runs, followed by arguments."""

PATIENCE = STALE + 3 * BEAT
"""Seconds for which another command that submits jobs is waited for. One that was killed counts as
working for `STALE` seconds where the file system locks no files."""

LARGEST_ARRAY = 1000
"""Most tasks of an array that Slurm takes unless its administrators have changed MaxArraySize."""


def hand_over(
    grid: Grid, machine: Machine, args: argparse.Namespace, request: Request | None
) -> None:
    """Submits what is neither recorded nor queued, and prints what was submitted and how to look.

    Args:
        grid: What the command runs.
        machine: Where the tasks compute.
        args: Its arguments; `words` are those that were typed.
        request: The corruptions under which the runs are tested, if any.

    Raises:
        UserError: Slurm does not answer or refuses the jobs, or the folder cannot be written.
    """
    results = args.results.resolve()
    options = slurm_options.options(args.slurm)
    every = [e for item in grid for e in steps(item)]
    if done := sum(map(is_done, every)):
        print(f'{done} of {len(every)} experiments are recorded already')

    def left() -> list[Unit]:
        return units(grid, lambda item: _unfinished(item, request), machine.varied)

    if args.dry_run:
        _show(left(), options, slurm_options.device_of(args))
    elif left():
        with _alone(results / slurm_jobs.FOLDER):
            _submit(left, results, args, options)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Makes the folder of the jobs this command's own; another one that submits is waited for.

    Raises:
        UserError: The other one does not end.
    """
    with contextlib.ExitStack() as stack:
        for second in itertools.count():
            try:
                stack.enter_context(holding(folder))
                break
            except Busy:
                if second > PATIENCE:
                    raise UserError(
                        f'{folder}: another command has been submitting jobs for {second} seconds; '
                        'try again when it has ended'
                    ) from None
            if not second:
                print('waiting for another command, which submits jobs at this moment', flush=True)
            time.sleep(1.0)
        yield


def _unfinished(item: Item, request: Request | None) -> bool:
    if not all(is_done(e) for e in steps(item)):
        return True
    return request is not None and bool(corruption_runs.pending(flat([item]), request))


def _waves(left: Sequence[Unit]) -> list[list[Unit]]:
    """Returns what can begin at once, what needs one training before, and what needs two.

    A teacher may start from encoders that are trained first, and its students need both.
    """
    known = {u.folder: u for u in left}

    def depth(unit: Unit) -> int:
        return max((1 + (depth(known[f]) if f in known else 0) for f in unit.after), default=0)

    return [[u for u in left if depth(u) == wave] for wave in range(3)]


def _show(left: Sequence[Unit], options: Options, device: str) -> None:
    """Prints the tasks that would be submitted; what is queued at this moment is not asked for."""
    at_once, *later = _waves(left)
    for name, wave in [('at once', at_once), *(('after another', wave) for wave in later)]:
        for unit in wave:
            print(f'to submit  {name:13}  {unit.text}')
    tasks = sum(len(_bundles(wave, options)) for wave in _waves(left))
    named = f'{tasks} task{"s" * (tasks != 1)}'
    print(f'{named}, each on {device} with {options.executor["time"]} minutes')


def _bundles(wave: Sequence[Unit], options: Options) -> list[list[Unit]]:
    """Deals the units of an array out to its tasks."""
    count = min(options.tasks or LARGEST_ARRAY, LARGEST_ARRAY, len(wave))
    return [list(wave[i::count]) for i in range(count)]


def _submit(
    unfinished: Callable[[], list[Unit]],
    results: Path,
    args: argparse.Namespace,
    options: Options,
) -> None:
    jobs = slurm_jobs.read(results) | _recovered(results)
    states = slurm_jobs.alive(jobs)
    # After the states: what has ended since was in the queue then, and is not submitted again.
    left = unfinished()
    jobs = {folder: job for folder, job in jobs.items() if job in states}
    if states:
        print(f'tasks in the queue already: {slurm_jobs.told(states)}')
    names = {unit.folder: str(unit.folder.relative_to(results)) for unit in left}
    new = [unit for unit in left if names[unit.folder] not in jobs]
    for wave in filter(None, _waves(new)):
        # Whatever became of the teachers, their students tell it: they would train them again.
        needed = {folder.relative_to(results) for unit in wave for folder in unit.after}
        before = sorted({jobs[str(folder)] for folder in needed if str(folder) in jobs})
        bundles = _bundles(wave, options)
        only = [[names[unit.folder] for unit in bundle] for bundle in bundles]
        mark = slurm_announced.announce(results, only)
        ids = _array(only, results, args, options, before, mark)
        jobs |= {name: job for bundle, job in zip(only, ids, strict=True) for name in bundle}
        slurm_jobs.write(results, jobs)
        slurm_announced.settle(results, [mark])
        after = f'; begins after {", ".join(before)}' if before else ''
        print(f'submitted {len(ids)} task{"s" if len(ids) > 1 else ""}: {_span(ids)}{after}')
    if new:
        print(f'their logs are written to {results / slurm_jobs.FOLDER}')
        print(f'--status {results} tells what is done; the same command prints the tables of it')


def _recovered(results: Path) -> slurm_jobs.Jobs:
    """Returns the tasks of a command that was killed before it wrote their ids, and writes these.

    Raises:
        UserError: Slurm does not answer, or the file cannot be written.
    """
    found = slurm_announced.recovered(results)
    if found.lost:
        print(f'cancelled, because a killed command had not finished them: {_span(found.lost)}')
        slurm_jobs.cancel(found.lost)
    if found.jobs:
        slurm_jobs.write(results, slurm_jobs.read(results) | found.jobs)
    slurm_announced.settle(results, found.marks)
    return found.jobs


def _span(ids: Sequence[str]) -> str:
    return ids[0] if len(ids) == 1 else f'{ids[0]} to {ids[-1]}'


def _array(
    only: Sequence[Sequence[str]],
    results: Path,
    args: argparse.Namespace,
    options: Options,
    before: Sequence[str],
    mark: str,
) -> list[str]:
    """Submits an array with a mark in its comment and returns the ids of its tasks.

    Raises:
        UserError: Slurm refuses it, or what the tasks need cannot be written.
    """
    import cloudpickle
    import submitit
    from submitit.core.utils import FailedJobError

    cloudpickle.register_pickle_by_value(slurm_task)
    device = slurm_options.device_of(args)
    own = ['--launcher', 'local', '--device', device, '--results', str(results), '--only']
    executor = submitit.SlurmExecutor(
        results / slurm_jobs.FOLDER / '%j', max_num_timeout=options.timeouts
    )
    dependency: Mapping[str, str] = {}
    if before:
        dependency = {'dependency': f'afterany:{":".join(before)}'}
    comment = f'{options.executor.get("comment", "")} {mark}'.strip()
    given = {**options.executor, **dependency, 'comment': comment}
    executor.update_parameters(stderr_to_stdout=True, **given)
    task = slurm_task.Task([*COMMAND, *args.words, *own], os.getcwd())
    try:
        # submitit prints what sbatch says before it raises it.
        with contextlib.redirect_stderr(io.StringIO()):
            return [job.job_id for job in executor.map_array(task, only)]
    except (OSError, RuntimeError) as error:
        lines = [line.removeprefix('sbatch: error: ') for line in str(error).splitlines()]
        why = '; '.join(lines)[:300]
        if not isinstance(error, FailedJobError):
            raise UserError(f'{results / slurm_jobs.FOLDER}: cannot be written: {why}') from error
        # Slurm may have taken what it was too slow to answer, and the next command looks for it.
        if 'timed out' not in str(error):
            slurm_announced.settle(results, [mark])
        raise UserError(f'sbatch: Slurm refuses the jobs: {why}') from error
