"""Which jobs of a scheduler run the experiments of a results folder.

The command that submits jobs leaves their ids in `slurm/jobs.json`; Slurm itself knows whether
they still wait or run. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmark import files
from benchmark.errors import UserError

FOLDER, FILE = 'slurm', 'jobs.json'
"""Folder in a results folder that takes logs of tasks, and the file in it that names the jobs."""

JOB = re.compile(r'[0-9]{1,12}(_[0-9]{1,9})?')
"""Id of a job, or of a task of an array."""

Jobs = dict[str, str]
"""Folder of what a task runs, relative to the results folder -> id of the task."""


def read(results: Path) -> Jobs:
    """Returns the tasks that were submitted for a results folder, whatever became of them.

    Raises:
        UserError: The file is damaged.
    """
    path = results / FOLDER / FILE
    try:
        found = files.read_json(path)
        if not isinstance(found, dict) or not all(
            isinstance(job, str) and JOB.fullmatch(job) for job in found.values()
        ):
            raise ValueError('expected folders with ids of jobs')
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        why = getattr(error, 'strerror', None) or error
        raise UserError(
            f'{path}: cannot be used: {why}; remove it if no jobs of this folder are queued'
        ) from error
    return found


def write(results: Path, jobs: Mapping[str, str]) -> None:
    """Writes which tasks run what.

    Raises:
        UserError: The file cannot be written.
    """
    with files.writing(results / FOLDER / FILE) as file:
        file.write(f'{json.dumps(dict(jobs), indent=1, sort_keys=True)}\n'.encode())


def alive(jobs: Mapping[str, str]) -> dict[str, str]:
    """Returns the tasks of a file that Slurm has not ended: id -> state, e.g. 'PENDING'.

    Raises:
        UserError: Slurm does not answer.
    """
    arrays = sorted({job.partition('_')[0] for job in jobs.values()})
    if not arrays:
        return {}
    form = ['--noheader', '--array', '--format=%i %T', f'--jobs={",".join(arrays)}']
    done = subprocess.run(['squeue', *form], capture_output=True, text=True, check=False)
    # Slurm forgets jobs some minutes after their end, and then knows no such id.
    if done.returncode and 'Invalid job id' not in done.stderr:
        raise UserError(f'squeue: Slurm does not answer: {done.stderr.strip()[:200]}')
    pairs = [line.split() for line in done.stdout.splitlines()]
    known = {job: state for job, state in (pair for pair in pairs if len(pair) == 2)}
    return {job: known[job] for job in jobs.values() if job in known}


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
    jobs = read(results)
    if jobs and shutil.which('squeue') is not None and (states := alive(jobs)):
        print(f'tasks in the queue: {told(states)}')
