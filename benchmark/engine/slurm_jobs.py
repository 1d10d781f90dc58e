"""Which jobs of a scheduler run the experiments of a results folder.

The command that submits jobs leaves their ids in `slurm/jobs.json`; Slurm itself knows whether
they still wait or run. Nothing here needs PyTorch.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    return read_file(results / FOLDER / FILE, _check_jobs) or {}


def read_file(path: Path, check: Callable[[Any], None]) -> Any:
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


def write(results: Path, jobs: Mapping[str, str]) -> None:
    """Writes which tasks run what.

    Raises:
        UserError: The file cannot be written.
    """
    with files.writing(results / FOLDER / FILE) as file:
        file.write(f'{json.dumps(dict(jobs), indent=1, sort_keys=True)}\n'.encode())


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
    pairs = [line.split() for line in squeue('--format=%i %T', f'--jobs={",".join(arrays)}')]
    known = {job: state for job, state in (pair for pair in pairs if len(pair) == 2)}
    return {job: known[job] for job in jobs.values() if job in known}


def squeue(*words: str) -> list[str]:
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
