"""Single experiments and teachers of a command, for whoever starts one task for each of them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmark.engine.building import Machine, use_gpu
from benchmark.engine.execution import describe, log, train
from benchmark.engine.experiment import Experiment
from benchmark.engine.grid import WAIT, is_done, steps
from benchmark.engine.jobs import share
from benchmark.engine.locks import Busy, holding
from benchmark.engine.notes import located, named
from benchmark.engine.plan import Grid, plain
from benchmark.engine.state import is_trained
from benchmark.engine.tuning import Search
from benchmark.errors import UserError
from benchmark.progress import Progress, Reporter

Item = Experiment | Search

Trainer = Callable[[Path, Reporter], bool]
"""Trains the teacher of a folder and returns whether it is trained; it can be pickled."""


class Unit(NamedTuple):
    """What a task runs at least.

    Attributes:
        folder: Folder that stands for it: that of an experiment, of a teacher or a pre-training, or
            that of the seeds of a search.
        text: What it is.
        after: Folders of what is trained before it, and is not trained yet.
    """

    folder: Path
    text: str
    after: frozenset[Path] = frozenset()


def folder_of(item: Item) -> Path:
    """Returns the folder that stands for an item of a grid."""
    if isinstance(item, Search):
        return item.tuned(item.read())[0].folder.parent
    return item.folder


def units(grid: Grid, unfinished: Callable[[Item], bool], varied: Sequence[str] = ()) -> list[Unit]:
    """Returns what is left of a grid: what is shared, such as teachers, then the items.

    Args:
        grid: The grid.
        unfinished: Says of an item whether anything of it is left.
        varied: As of `located`.
    """
    todo = {folder_of(item): item for item in grid if unfinished(item)}
    shared: dict[Path, Unit] = {}
    found = []
    for folder, item in todo.items():
        needed = _untrained(item)
        for e in needed.values():
            if e.folder not in todo:
                text = f'{located(e, varied)}  {_kind(e)} {named(e)}  seed {e.seed}'
                shared[e.folder] = Unit(e.folder, text, frozenset(_untrained(e)))
        found.append(Unit(folder, _text(item, varied), frozenset(needed)))
    return [*shared.values(), *found]


def _kind(e: Experiment) -> str:
    return 'pre-training' if e.method.pretrains else 'teacher'


def _text(item: Item, varied: Sequence[str]) -> str:
    data = located(plain(item), varied)
    if isinstance(item, Search):
        seeds = ' '.join(map(str, item.seeds))
        return f'{data}  {item.label}  {item.trials} trials, seeds {seeds}'
    return f'{data}  {named(item)}  seed {item.seed}'


def _shared(todo: Iterable[Experiment]) -> dict[Path, Experiment]:
    """Returns the teachers and pre-trainings of experiments."""
    return {x.folder: x for e in todo for x in e.earlier.values()}


def _left(item: Item) -> list[Experiment]:
    return [e for e in steps(item) if not is_done(e)]


def _untrained(item: Item) -> dict[Path, Experiment]:
    """Returns what an item still needs and is not trained yet."""
    return {
        folder: e
        for folder, e in _shared(_left(item)).items()
        if not is_trained(folder, e.identity_of(e.parts[0]))
    }


def picked(grid: Grid, only: Sequence[str], results: Path) -> tuple[Grid, list[Experiment]]:
    """Returns what some folders stand for.

    Args:
        grid: What the command runs.
        only: The folders, relative to the results folder.
        results: The results folder.

    Returns:
        Items of the grid, and teachers and pre-trainings that are trained alone.

    Raises:
        UserError: A folder stands for nothing that the command runs.
    """
    wanted = [(results.resolve() / folder) for folder in only]
    items = {folder_of(item): item for item in grid}
    teachers = _shared(e for item in grid for e in _left(item))
    # Those of what has been recorded meanwhile are trained, and needed no more.
    known = {*items, *_shared(e for item in grid for e in steps(item))}
    for folder in wanted:
        if folder not in known:
            raise UserError(
                f'--only: expected the folder of something that this command runs, found {folder}; '
                'the command, the code or the data have changed'
            )
    chosen = [item for folder, item in items.items() if folder in wanted]
    alone = [e for folder, e in teachers.items() if folder in wanted and folder not in items]
    return chosen, alone


def show_teachers(teachers: Sequence[Experiment], machine: Machine) -> None:
    """Prints what `teach` would do."""
    for e in teachers:
        word = 'trained' if is_trained(e.folder, e.identity_of(e.parts[0])) else 'to train'
        print(f'{word:8}  {located(e, machine.varied)}  {_kind(e)} {named(e)}  seed {e.seed}')


def teach(teachers: Sequence[Experiment], machine: Machine, trainer: Trainer | None) -> bool:
    """Trains teachers and encoders for the tasks that need them; nothing is tested.

    Args:
        teachers: The teachers.
        machine: Where to train.
        trainer: What a process does for each of them; this one outlives its death. Without it this
            process trains.

    Returns:
        Whether all are trained; an error line tells how many are not.
    """
    epochs: dict[str, int] = {}
    for e in teachers:
        data = located(e, machine.varied)
        epochs[data] = epochs.get(data, 0) + e.protocol.epochs
    failed = 0
    if teachers and trainer is None:
        use_gpu(machine.gpus)
    with Progress(epochs, len(teachers)) as progress:
        for e in teachers:
            if trainer is None:
                trained = train_teacher(e, machine, progress)
            else:
                trained = bool(share(partial(trainer, e.folder), 1, progress, machine.gpus))
            failed += not trained
    if failed:
        print(f'error: {failed} of {len(teachers)} teachers cannot be trained', file=sys.stderr)
    return not failed


def train_teacher(e: Experiment, machine: Machine, told: Reporter) -> bool:
    """Trains a teacher in this process.

    Args:
        e: The teacher.
        machine: Where to train.
        told: Is told what happens.

    Returns:
        Whether it is trained.
    """
    told.start(located(e, machine.varied), f'{_kind(e)} {e.label}', e.seed, e.folder)
    try:
        _train(e, machine, told)
    except (Exception, SystemExit) as error:  # code of a method may end the interpreter
        message, trace = describe(e, error)
        with contextlib.suppress(UserError):  # the error itself is told
            log(e, trace)
        told.end(f'FAILED: {message}')
        return False
    told.end('trained')
    return True


def _train(e: Experiment, machine: Machine, told: Reporter) -> None:
    while True:
        try:
            with holding(e.folder):
                train(e, machine, told.report)
            return
        except Busy:
            told.waiting(1)
            time.sleep(WAIT)
