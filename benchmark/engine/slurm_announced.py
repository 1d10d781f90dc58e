"""What becomes of the jobs of a command that is killed while it submits them.

Slurm may have taken an array before its ids are written in the results folder. Therefore a command
notes before what it is going to submit, in `slurm/submitting.json`, with a mark that the tasks
carry as the last word of their comment. The next command finds them by it. Nothing here needs
PyTorch.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark import files
from benchmark.engine import slurm_jobs

ANNOUNCED = 'submitting.json'
"""File in that folder with the arrays whose ids are not written yet."""

SETTLED = 10.0
"""Seconds for which an array that was announced is waited for: `sbatch` may outlive the command
that has started it. Tasks that come still later cannot run, and the next command cancels them."""

FORGOTTEN = 86400.0
"""Seconds after which an array that Slurm does not know is not looked for any more."""

MARK = re.compile('benchmark-[0-9a-f]{16}')
"""The last word of the comment of a task."""


def announce(results: Path, tasks: Sequence[Sequence[str]]) -> str:
    """Notes what will be submitted as the next array, and returns the mark that finds it.

    Args:
        results: The results folder.
        tasks: For each task the folders of what it runs, relative to the results folder.

    Raises:
        UserError: The file cannot be read or written.
    """
    mark = f'benchmark-{secrets.token_hex(8)}'
    new = {
        'mark': mark,
        'results': str(results),
        'time': time.time(),
        'user': os.getuid(),
        'tasks': [*map(list, tasks)],
    }
    _keep(results, [*_announced(results), new])
    return mark


def settle(results: Path, marks: Collection[str]) -> None:
    """Forgets what was announced: its ids are written, or Slurm has refused it.

    Raises:
        UserError: The file cannot be read or written.
    """
    _keep(results, [one for one in _announced(results) if one['mark'] not in marks])


def _announced(results: Path) -> list[dict[str, Any]]:
    """Returns what was announced and is not settled, the latest last.

    A copy of a results folder does not know the tasks of the other one, and after a day Slurm will
    not take an array any more.
    """
    every = slurm_jobs.read_file(results / slurm_jobs.FOLDER / ANNOUNCED, _check_announced) or []
    oldest = time.time() - FORGOTTEN
    return [one for one in every if one['results'] == str(results) and one['time'] > oldest]


def _keep(results: Path, announced: Sequence[dict[str, Any]]) -> None:
    path = results / slurm_jobs.FOLDER / ANNOUNCED
    if announced:
        with files.writing(path) as file:
            file.write(json.dumps(announced).encode())
    else:
        path.unlink(missing_ok=True)


class Recovered(NamedTuple):
    """What Slurm knows of the arrays that were announced, and whose ids are not written.

    Attributes:
        jobs: The tasks that wait or run.
        lost: Ids of tasks that cannot run, because what they need was not in its place yet.
        marks: The marks that were found.
    """

    jobs: slurm_jobs.Jobs
    lost: list[str]
    marks: set[str]


def recovered(results: Path, wait: bool = True) -> Recovered:
    """Finds the tasks of commands that were killed before they wrote their ids.

    Args:
        results: The results folder, as `announce` was told it.
        wait: Whether to wait until Slurm must know what has just been announced.

    Raises:
        UserError: The file is damaged, or Slurm does not answer.
    """
    announced = {one['mark']: one for one in _announced(results)}
    found = _marked(announced)
    for second in range(math.ceil(SETTLED) if wait else 0):
        # A clock that is wrong may have told a time to come: no more is waited than `SETTLED`.
        unknown = [one for mark, one in announced.items() if mark not in found.values()]
        if not any(time.time() - one['time'] < SETTLED for one in unknown):
            break
        if not second:
            print('waiting for what a command that was killed may have submitted', flush=True)
        time.sleep(1.0)
        found = _marked(announced)
    jobs, lost = slurm_jobs.Jobs(), []
    for job, mark in found.items():
        index, tasks = int(job.partition('_')[2] or 0), announced[mark]['tasks']
        if not (results / slurm_jobs.FOLDER / job / f'{job}_submitted.pkl').exists():
            lost.append(job)
        elif index < len(tasks):
            jobs |= dict.fromkeys(tasks[index], job)
    return Recovered(jobs, lost, {*found.values()})


def _marked(announced: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns the tasks that wait or run and whose comment ends with one of some marks: id -> mark.

    Raises:
        UserError: Slurm does not answer.
    """
    if not announced:
        return {}
    users = sorted({str(one['user']) for one in announced.values()})
    lines = slurm_jobs.squeue(f'--user={",".join(users)}', '--format=%i %k')
    words = [line.split() for line in lines]
    return {job: comment[-1] for job, *comment in words if comment and comment[-1] in announced}


def _check_announced(found: Any) -> None:
    if not isinstance(found, list) or not all(map(_is_announcement, found)):
        raise ValueError('expected announcements of arrays')


def _is_announcement(found: Any) -> bool:
    if not isinstance(found, dict) or found.keys() != {'mark', 'results', 'time', 'user', 'tasks'}:
        return False
    mark, tasks = found['mark'], found['tasks']
    return (
        isinstance(mark, str)
        and MARK.fullmatch(mark) is not None
        and isinstance(found['results'], str)
        and isinstance(found['time'], int | float)
        and isinstance(found['user'], int)
        and isinstance(tasks, list)
        and all(isinstance(task, list) for task in tasks)
        and all(isinstance(name, str) for task in tasks for name in task)
    )


def show(results: Path) -> None:
    """Prints what is queued for a results folder, where this machine has Slurm.

    Raises:
        UserError: The file of the jobs is damaged, or Slurm does not answer.
    """
    if shutil.which('squeue') is None:
        return
    jobs = slurm_jobs.read(results) | recovered(results.resolve(), wait=False).jobs
    if states := slurm_jobs.alive(jobs):
        print(f'tasks in the queue: {slurm_jobs.told(states)}')
