"""A run that is done again: its files replace those of the finished one once they are whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmark.engine import state
from benchmark.engine.contents import ANEW, home
from benchmark.engine.experiment import Experiment
from benchmark.files import sync_folder
from benchmark.records import store


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
        _replace(made.folder)
    finally:
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
