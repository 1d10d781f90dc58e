"""Which jobs of a scheduler run the experiments of a results folder.

The command that submits jobs leaves their ids in `slurm/jobs.json`; Slurm itself knows whether
they still wait or run. A command can be killed after Slurm has taken an array and before its ids
are written. Therefore it notes before what it is going to submit (`announce`), with a mark that the
tasks carry as the last word of their comment, and the next command finds them by it (`recovered`).
Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import files
from benchmark.errors import UserError

FOLDER, FILE = 'slurm', 'jobs.json'
"""Folder in a results folder that takes logs of tasks, and the file in it that names the jobs."""

ANNOUNCED = 'submitting.json'
"""File in that folder with the array that is submitted at this moment."""

SETTLED = 10.0
"""Seconds after which Slurm knows an array that was announced, or will never know it: `sbatch` may
outlive the command that has started it."""

JOB = re.compile(r'[0-9]{1,12}(_[0-9]{1,9})?')
"""Id of a job, or of a task of an array."""

Jobs = dict[str, str]
"""Folder of what a task runs, relative to the results folder -> id of the task."""


def read(results: Path) -> Jobs:
    """Returns the tasks that were submitted for a results folder, whatever became of them.

    Raises:
        UserError: The file is damaged.
    """
    return _read(results / FOLDER / FILE, _check_jobs) or {}


def _read(path: Path, check: Callable[[Any], None]) -> Any:
    """Reads a file that tells what was submitted; None if there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        found = files.read_json(path)
        check(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(
            f'{path}: cannot be used: {why}; remove it if no jobs of this folder are queued'
        ) from error
    return found


def _check_jobs(found: Any) -> None:
    if not isinstance(found, dict) or not all(
        isinstance(job, str) and JOB.fullmatch(job) for job in found.values()
    ):
        raise ValueError('expected folders with ids of jobs')


def _check_announced(found: Any) -> None:
    if not isinstance(found, dict) or found.keys() != {'mark', 'tasks'}:
        raise ValueError('expected a mark and tasks')
    mark, tasks = found['mark'], found['tasks']
    lists = isinstance(tasks, list) and all(isinstance(task, list) for task in tasks)
    if not (isinstance(mark, str) and lists):
        raise ValueError('expected a text as mark, and a list of folders for each task')
    if not all(isinstance(name, str) for task in tasks for name in task):
        raise ValueError('expected texts as folders')


def write(results: Path, jobs: Mapping[str, str]) -> None:
    """Writes which tasks run what.

    Raises:
        UserError: The file cannot be written.
    """
    with files.writing(results / FOLDER / FILE) as file:
        file.write(f'{json.dumps(dict(jobs), indent=1, sort_keys=True)}\n'.encode())


def announce(results: Path, tasks: Sequence[Sequence[str]]) -> str:
    """Notes what will be submitted as the next array, and returns the mark that finds it.

    Args:
        results: The results folder.
        tasks: For each task the folders of what it runs, relative to the results folder.

    Raises:
        UserError: The file cannot be written.
    """
    mark = f'benchmark-{secrets.token_hex(8)}'
    with files.writing(results / FOLDER / ANNOUNCED) as file:
        file.write(json.dumps({'mark': mark, 'tasks': list(map(list, tasks))}).encode())
    return mark


def settle(results: Path) -> None:
    """Forgets what was announced: its ids are written, or Slurm has refused it."""
    (results / FOLDER / ANNOUNCED).unlink(missing_ok=True)


def recovered(results: Path, wait: bool = True) -> tuple[Jobs, list[str]]:
    """Finds the tasks that a command submitted which was killed before it wrote their ids.

    Args:
        results: The results folder.
        wait: Whether to wait until Slurm must know what has just been announced.

    Returns:
        The tasks that wait or run; and the ids of those that cannot run, because what they need
        was not in its place yet.

    Raises:
        UserError: The file is damaged, or Slurm does not answer.
    """
    path = results / FOLDER / ANNOUNCED
    announced = _read(path, _check_announced)
    if announced is None:
        return {}, []
    found = _marked(announced['mark'])
    begun = time.monotonic()
    while wait and not found and max(_age(path), time.monotonic() - begun) < SETTLED:
        time.sleep(1.0)
        found = _marked(announced['mark'])
    jobs, lost = Jobs(), []
    for job in found:
        index = int(job.partition('_')[2] or 0)
        if not (results / FOLDER / job / f'{job}_submitted.pkl').exists():
            lost.append(job)
        elif index < len(announced['tasks']):
            jobs |= dict.fromkeys(announced['tasks'][index], job)
    return jobs, lost


def _age(path: Path) -> float:
    """Returns how many seconds ago a file was written; 0 if a clock says that it will be."""
    return max(0.0, time.time() - path.stat().st_mtime)


def _marked(mark: str) -> list[str]:
    """Returns the ids of this user's tasks that wait or run and whose comment ends with a mark.

    Raises:
        UserError: Slurm does not answer.
    """
    lines = _squeue(f'--user={os.getuid()}', '--format=%i %k')
    return [job for job, *comment in map(str.split, lines) if comment[-1:] == [mark]]


def cancel(ids: Sequence[str]) -> None:
    """Takes tasks out of the queue.

    Raises:
        UserError: Slurm does not do it.
    """
    done = subprocess.run(['scancel', *ids], capture_output=True, text=True, check=False)
    if done.returncode and 'Invalid job id' not in done.stderr:
        raise UserError(f'scancel: Slurm cancels no tasks: {done.stderr.strip()[:200]}')


def alive(jobs: Mapping[str, str]) -> dict[str, str]:
    """Returns the tasks of a file that Slurm has not ended: id -> state, e.g. 'PENDING'.

    Raises:
        UserError: Slurm does not answer.
    """
    arrays = sorted({job.partition('_')[0] for job in jobs.values()})
    if not arrays:
        return {}
    pairs = [line.split() for line in _squeue('--format=%i %T', f'--jobs={",".join(arrays)}')]
    known = {job: state for job, state in (pair for pair in pairs if len(pair) == 2)}
    return {job: known[job] for job in jobs.values() if job in known}


def _squeue(*words: str) -> list[str]:
    """Returns the lines in which Slurm tells of the tasks that it has not ended.

    Raises:
        UserError: Slurm does not answer.
    """
    words = ('squeue', '--noheader', '--array', *words)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    # Slurm forgets jobs some minutes after their end, and then knows no such id.
    if done.returncode and 'Invalid job id' not in done.stderr:
        raise UserError(f'squeue: Slurm does not answer: {done.stderr.strip()[:200]}')
    return done.stdout.splitlines()


def told(states: Mapping[str, str]) -> str:
    """Tells tasks by state, e.g. '2 running, 3 pending (jobs 12, 13)'."""
    counts = Counter(state.lower() for state in states.values())
    arrays = sorted({job.partition('_')[0] for job in states}, key=int)
    words = ', '.join(f'{count} {state}' for state, count in sorted(counts.items()))
    return f'{words} (job{"s" if len(arrays) > 1 else ""} {", ".join(arrays)})'


def show(results: Path) -> None:
    """Prints what is queued for a results folder, where this machine has Slurm.

    Raises:
        UserError: The file of the jobs is damaged, or Slurm does not answer.
    """
    if shutil.which('squeue') is None:
        return
    jobs = read(results) | recovered(results, wait=False)[0]
    if states := alive(jobs):
        print(f'tasks in the queue: {told(states)}')
