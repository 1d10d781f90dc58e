"""Runs an experiment to its record: teacher, training, selection, test."""

from __future__ import annotations

import functools
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmark.engine import cost, environment, hooks, training
from benchmark.engine.building import Machine, build, loaders
from benchmark.engine.experiment import TRAINED, CannotTrain, Experiment, Part
from benchmark.engine.recording import Trained, finish, keep_other
from benchmark.errors import UserError
from benchmark.files import writing
from benchmark.method import Method
from benchmark.records import store

Report = Callable[[str, int, int, float], None]
"""Called with (stage, finished epochs, epochs, seconds of this stage so far)."""


def run(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> store.Record:
    """Runs one experiment to its record, going on from wherever an earlier run stopped.

    Args:
        experiment: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists.

    Returns:
        The record, which has been written.

    Raises:
        CannotTrain: The method cannot train on these data.
        UserError: The folder cannot be written.
        TrainingDiverged: A loss or a prediction became NaN or infinite.
    """
    trained, teacher_cost = train(experiment, machine, report, force)
    report('testing', 0, 0, 0.0)
    return finish(experiment, machine, trained, teacher_cost)


def train(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> tuple[list[Trained], dict[str, Any]]:
    """Trains an experiment's networks, after its teacher; the test split is not opened.

    Returns:
        Each network with what is known of its training, and what the teacher took.

    Raises:
        CannotTrain: The method cannot train on these data.
        UserError: The folder cannot be written.
        TrainingDiverged: A loss or a prediction became NaN or infinite.
    """
    if experiment.search is not None and experiment.search['chosen'] is None:
        trials = experiment.search['trials']
        raise UserError(f'{experiment.label}: expected {trials} trials to have run before it')
    if force:
        clear(experiment)
    _prepare(machine)
    _ = experiment.readable  # refuses before a teacher is trained
    teacher = experiment.teacher
    teacher_cost = {'seconds': 0.0, 'peak_memory_mb': 0.0}
    mentor = None
    if teacher is not None:
        stage = functools.partial(report, f'teacher {teacher.label}')
        mentor, teacher_cost = _train_part(teacher, teacher.parts[0], machine, None, stage)
    trained = []
    for part in experiment.parts:
        stage = functools.partial(report, part.only[0] if part.only else 'training')
        trained.append(_train_part(experiment, part, machine, mentor, stage))
    return trained, teacher_cost


def _prepare(machine: Machine) -> None:
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    # Some CUDA kernels have no deterministic form; those warn instead of stopping the run.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Costs time and only serves to expose reads of memory that was never written.
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False
    if machine.device == 'cuda':
        torch.backends.cuda.matmul.allow_tf32 = False


def clear(experiment: Experiment) -> None:
    """Removes the weights of an experiment and whatever its training could go on from."""
    for part in experiment.parts:
        for name in ('resume.pth', 'resume.json', 'best.pth', 'checkpoint.pth', TRAINED):
            (part.folder / name).unlink(missing_ok=True)


def _train_part(
    experiment: Experiment,
    part: Part,
    machine: Machine,
    mentor: Method | None,
    report: Callable[[int, int, float], None],
) -> Trained:
    """Returns one trained network and what is known of its training, from disk where finished."""
    folder, identity = part.folder, experiment.identity
    method = build(experiment, machine.device)
    done = folder / TRAINED
    summary = _finished(done, identity)
    if summary is not None:
        weights = torch.load(
            folder / 'checkpoint.pth', map_location=machine.device, weights_only=True
        )
        method.load_state_dict(weights)
    else:
        make_folder(folder)
        if mentor is not None:
            method.set_teacher(mentor)
        epochs = experiment.protocol.epochs
        cost.reset_peak(machine.device)
        summary = training.train(
            method,
            loaders(experiment, part, machine),
            experiment.protocol,
            training.Job(folder, identity, experiment.seed, machine.device, part.only),
            lambda epoch, seconds: report(epoch, epochs, seconds),
        )
        summary['peak_memory_mb'] = cost.peak_memory(machine.device)
        hooks.save_atomically(method.state_dict(), folder / 'checkpoint.pth')
        with writing(done) as file:
            file.write(json.dumps({'identity': identity, **summary}).encode())
        for leftover in ('resume.pth', 'resume.json', 'best.pth'):
            (folder / leftover).unlink(missing_ok=True)
    return Trained(method.eval(), summary)


def _finished(file: Path, identity: str) -> dict[str, Any] | None:
    try:
        summary = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    whole = summary.get('identity') == identity and (file.parent / 'checkpoint.pth').is_file()
    return summary if whole else None


def make_folder(folder: Path) -> None:
    """Makes a folder and checks that files can be written there.

    Raises:
        UserError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '.writable').touch()
        (folder / '.writable').unlink()
    except OSError as error:
        raise UserError(f'{folder}: cannot be written: {error.strerror}') from None


def describe(error: Exception) -> tuple[str, str | None]:
    """Returns one line on an error, and its traceback where it was no mistake of the user's."""
    if isinstance(error, UserError | hooks.TrainingDiverged):
        return str(error), None
    return f'{type(error).__name__}: {error}', ''.join(traceback.format_exception(error))


def log(experiment: Experiment, trace: str | None) -> None:
    """Adds a traceback, where there is one, to an experiment's log."""
    make_folder(experiment.folder)
    if trace is not None:
        with open(experiment.folder / 'train.log', 'a') as file:
            file.write(trace)


def failure(experiment: Experiment, error: Exception, machine: Machine) -> str:
    """Records a run that ended in an error, unless a complete record stands there already.

    Args:
        experiment: What was to run.
        error: Why it did not; `CannotTrain` is recorded as a refusal.
        machine: Where it ran.

    Returns:
        The error in one line, with the file that holds the traceback if there is one.
    """
    message, trace = describe(error)
    status = 'refused' if isinstance(error, CannotTrain) else 'failed'
    record = {**experiment.header, 'status': status, 'error': message}
    try:
        log(experiment, trace)
        if experiment.recorded() is None:
            keep_other(experiment)
            store.write(
                experiment.folder / store.RECORD,
                {**record, **environment.circumstances(machine.device)},
            )
    except (UserError, OSError):
        return message
    return f'{message} (see {experiment.folder / "train.log"})' if trace is not None else message
