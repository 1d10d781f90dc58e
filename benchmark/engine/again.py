"""A run that is done again: its files replace those of the finished one once they are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmark.engine import state
from benchmark.engine.contents import ANEW, FAILED, TRIAL, home
from benchmark.engine.experiment import Experiment
from benchmark.engine.locks import Busy, check_held
from benchmark.files import stamp, sync_folder
from benchmark.records import store
from benchmark.shown import one_line


class Stamped(NamedTuple):
    """What changes whenever a file of an experiment is written anew; None without the file.

    Attributes:
        record: Of its record, or of the result of a trial.
        failed: Of the note that it was to be done again and has failed.
    """

    record: tuple[int, int] | None
    failed: tuple[int, int] | None


Stamps = dict[Path, Stamped]
"""Folder of each experiment of a command -> its stamps when the command began."""


def stamps(e: Experiment) -> Stamped:
    """Returns the stamps of an experiment or a trial."""
    file = e.folder / (TRIAL if e.trial else store.RECORD)
    return Stamped(stamp(file), stamp(e.folder / FAILED))


def changed(e: Experiment, before: Stamped | None) -> Stamped:
    """Returns those stamps of an experiment that are others than they were."""
    then = before or Stamped(None, None)
    return Stamped(*(n if n != t else None for n, t in zip(stamps(e), then, strict=True)))


def failed(experiment: Experiment, status: str, error: str) -> None:
    """Notes that a finished experiment was to be done again and has failed.

    Its record or result stays, from which other processes of the command could not tell it.

    Args:
        experiment: The experiment or trial.
        status: 'failed' or 'refused'.
        error: Why.

    Raises:
        UserError: The file cannot be written.
    """
    content = {'identity': experiment.identity, 'status': status, 'error': one_line(error)}
    state.write_json(experiment.folder / FAILED, content)


@contextlib.contextmanager
def beside(experiment: Experiment) -> Iterator[Experiment]:
    """Yields a finished experiment as one whose files go to a folder inside its own.

    They replace the files of the finished one when the block ends. If it fails or is interrupted
    they are removed, and the finished one stays as it was. A process that is killed leaves them
    under a name that the next one with the lock of the experiment removes.

    Args:
        experiment: The experiment, whose lock this process holds.
    """
    made = dataclasses.replace(experiment, folder=experiment.folder / ANEW)
    try:
        state.discard(experiment.folder, ANEW)
        yield made
        check_held()
        _replace(made.folder)
    finally:
        with contextlib.suppress(Busy):  # what lies there now is that of another process
            check_held()
            shutil.rmtree(made.folder, ignore_errors=True)


def _replace(made: Path) -> None:
    """Moves all files to where they belong, the record last.

    What says that the run before is finished is removed first. Wherever this is cut off, the run
    then counts as unfinished, and no network of the run before goes with one of the new run.
    """
    found = sorted(path for path in made.rglob('*') if path.is_file())
    record, ends = made / store.RECORD, (store.RECORD, state.TRAINED)
    folders = {home(path.parent) for path in found}
    for path in [path for path in found if path.name in ends]:
        state.discard(home(path.parent), path.name)
    _settle(folders)
    for path in [path for path in found if path != record]:
        _move(path)
    _settle(folders)
    _move(record)
    state.discard(home(made), FAILED)
    _settle(folders)


def _settle(folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_dir():
            sync_folder(folder)


def _move(path: Path) -> None:
    target = home(path)
    target.parent.mkdir(exist_ok=True)
    state.make_room(target.parent, target.name)
    os.replace(path, target)
