"""Runs an experiment to its record: teacher, training, selection, test."""

from __future__ import annotations

import errno
import functools
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmark.engine import again, card, cost, environment, fitting, pretraining, state, training
from benchmark.engine.building import Machine, build, exact, loaders
from benchmark.engine.contents import ANEW, home
from benchmark.engine.experiment import CannotTrain, Experiment, Part
from benchmark.engine.locks import check_held, holding
from benchmark.engine.parallel import sections
from benchmark.engine.recording import Trained, finish, keep_other
from benchmark.errors import UserError
from benchmark.files import make_folder
from benchmark.method import Method
from benchmark.records import store

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}
"""Errors of a disk that is full, gone or broken, whichever file met them."""

Report = Callable[[str, int, int, float], None]
"""Called with (stage, finished epochs, epochs, seconds of this stage so far)."""


class Before(NamedTuple):
    """Trained networks that an experiment needs: its teacher, and encoders to start from."""

    mentor: Method | None
    encoders: Method | None


NOTHING = Before(None, None)


def run(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> store.Record:
    """Runs one experiment to its record, going on from wherever an earlier run stopped.

    Args:
        experiment: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists. A complete record and its weights
            stay until the new ones are whole.

    Returns:
        The record, which has been written.

    Raises:
        Busy: Another process trains the teacher or the encoders.
        CannotTrain: The method cannot train on these data.
        UserError: The folder cannot be written.
        TrainingDiverged: A loss or a prediction became NaN or infinite.
    """
    if force and experiment.recorded() is not None:
        with again.beside(experiment) as made:
            return _run(made, machine, report)
    return _run(experiment, machine, report, force)


def _run(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> store.Record:
    trained, earlier = train(experiment, machine, report, force)
    state.make_room(experiment.folder, store.RECORD, *store.BESIDE)
    card.write(experiment, machine.device)
    report('testing', 0, 0, 0.0)
    return finish(experiment, machine, trained, earlier)


def train(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> tuple[list[Trained], dict[str, Any]]:
    """Trains an experiment's networks, after its teacher; the test split is not opened.

    Returns:
        Each network with what is known of its training, and what was trained before them took:
        'seconds' of the teacher, 'pretrain_seconds' if there are, and 'peak_memory_mb'.

    Raises:
        Busy: Another process trains the teacher or the encoders.
        CannotTrain: The method cannot train on these data.
        UserError: The folder cannot be written.
        TrainingDiverged: A loss or a prediction became NaN or infinite.
    """
    if experiment.search is not None and experiment.search['chosen'] is None:
        trials = experiment.search['trials']
        raise UserError(f'{experiment.label}: expected {trials} trials to have run before it')
    if force:
        clear(experiment)
    deterministic(machine)
    _ = experiment.readable  # refuses before a teacher is trained
    before, earlier = _before(experiment, machine, report)
    trained = []
    for part in experiment.parts:
        stage = functools.partial(report, part.only[0] if part.only else 'training')
        trained.append(_train_part(experiment, part, machine, before, stage))
    return trained, earlier


def deterministic(machine: Machine) -> None:
    """Makes the same computation give the same numbers, also on a GPU, unless speed is wanted."""
    torch.backends.cudnn.deterministic = machine.deterministic
    torch.backends.cudnn.benchmark = not machine.deterministic
    # Some CUDA kernels have no deterministic form; those warn instead of stopping the run.
    torch.use_deterministic_algorithms(machine.deterministic, warn_only=True)
    # Costs time and only serves to expose reads of memory that was never written.
    settings: Any = torch.utils.deterministic
    settings.fill_uninitialized_memory = False
    if machine.device == 'cuda':
        exact()


def clear(experiment: Experiment) -> None:
    """Removes the weights of an experiment and whatever its training could go on from."""
    for part in experiment.parts:
        state.discard(part.folder, state.TRAINED, state.WEIGHTS, *state.LEFTOVERS)


def _before(
    experiment: Experiment, machine: Machine, report: Report
) -> tuple[Before, dict[str, Any]]:
    """Returns the networks that an experiment needs, and what their trainings took."""
    before, earlier = NOTHING, {'seconds': 0.0, 'peak_memory_mb': 0.0}
    if (first := experiment.pretraining) is not None:
        stage = functools.partial(report, f'pre-training {first.label}')
        found, summary = _shared(first, machine, before, stage)
        before = Before(None, found)
        earlier |= {'pretrain_seconds': summary['seconds']}
        earlier['peak_memory_mb'] = summary['peak_memory_mb']
    if (teacher := experiment.teacher) is not None:
        stage = functools.partial(report, f'teacher {teacher.label}')
        found, summary = _shared(teacher, machine, before, stage)
        before = before._replace(mentor=found)
        earlier['seconds'] = summary['seconds']
        earlier['peak_memory_mb'] = max(earlier['peak_memory_mb'], summary['peak_memory_mb'])
    return before, earlier


def _shared(
    e: Experiment, machine: Machine, before: Before, report: Callable[[int, int, float], None]
) -> Trained:
    """Returns a trained network that several experiments and their processes share."""
    found = _from_disk(e, e.parts[0], machine)
    # One that is trained anew at this moment is waited for.
    unfinished = any((e.folder / name).exists() for name in (state.LEFTOVERS[-1], ANEW))
    if found is not None and not unfinished:
        return found
    with holding(e.folder):
        return _train_part(e, e.parts[0], machine, before, report)


def _from_disk(experiment: Experiment, part: Part, machine: Machine) -> Trained | None:
    # Most trainings have not begun: nothing need be built to see that.
    identity = experiment.identity_of(part)
    if state.read_json(part.folder / state.TRAINED, identity) is None:
        return None
    method = build(experiment, machine.device)
    found = state.read_trained(part.folder, identity, method.state_dict())
    if found is None:
        return None
    method.load_state_dict(found[0])
    return Trained(method.eval(), found[1])


def _train_part(
    experiment: Experiment,
    part: Part,
    machine: Machine,
    before: Before,
    report: Callable[[int, int, float], None],
) -> Trained:
    """Returns one trained network and what is known of its training, from disk where finished."""
    for folder in (told := home(part.folder), part.folder):
        make_folder(folder)
    state.make_room(told, training.LOG)  # training and test write it
    found = _from_disk(experiment, part, machine)
    if found is not None:
        state.discard(part.folder, *state.LEFTOVERS)  # of a process that was killed just then
        return found
    try:
        return _fit(experiment, part, machine, before, report)
    except state.Unusable:  # it was named and removed
        return _fit(experiment, part, machine, before, report)


def _fit(
    experiment: Experiment,
    part: Part,
    machine: Machine,
    before: Before,
    report: Callable[[int, int, float], None],
) -> Trained:
    """Trains a network and keeps its weights."""
    method = build(experiment, machine.device)
    if before.encoders is not None:
        pretraining.start(method, before.encoders)
    if before.mentor is not None:
        method.set_teacher(before.mentor)
    epochs, identity = experiment.protocol.epochs, experiment.identity_of(part)
    cost.reset_peak(machine.device)
    if fitting.is_fitted(experiment.method):
        report(0, 0, 0.0)
        summary = fitting.fit(method, experiment, part, machine)
    else:
        own = part.folder, identity, experiment.seed, machine.device, experiment.subsets_of(part)
        with sections.shared(sections.TRAIN, experiment, part, method):
            summary = training.train(
                method,
                loaders(experiment, part, machine),
                experiment.protocol,
                training.Job(
                    *own,
                    machine.curves,
                    machine.visualizer,
                    experiment.about,
                    compiled=machine.compiled,
                ),
                lambda epoch, seconds: report(epoch, epochs, seconds),
            )
    summary['peak_memory_mb'] = cost.peak_memory(machine.device)
    state.keep_trained(part.folder, identity, method.state_dict(), summary)
    return Trained(method.eval(), summary)


def describe(experiment: Experiment, error: BaseException) -> tuple[str, str | None]:
    """Returns one line on an error, and its traceback where it was a fault of the code.

    Mistakes of the user, a full disk and a results folder that vanished are none.
    """
    if isinstance(error, UserError):
        return str(error), None
    if isinstance(error, OSError):
        place = Path(str(error.filename or experiment.folder))
        if error.errno in DISK or place.is_relative_to(experiment.folder):
            return f'{place}: cannot be written: {error.strerror}', None
    return f'{type(error).__name__}: {error}', ''.join(traceback.format_exception(error))


def log(experiment: Experiment, trace: str | None) -> None:
    """Adds a traceback, where there is one, to an experiment's log.

    Raises:
        UserError: The log cannot be written.
    """
    make_folder(experiment.folder)
    if trace is None:
        return
    path = experiment.folder / training.LOG
    try:
        state.make_room(path.parent, path.name)
        with path.open('a', encoding='utf-8') as file:
            file.write(trace)
    except OSError as error:
        raise UserError(f'{path}: cannot be written: {error.strerror}') from error


def failure(experiment: Experiment, error: BaseException, machine: Machine) -> str:
    """Records a run that ended in an error; a complete record that stands there already stays.

    Args:
        experiment: What was to run.
        error: Why it did not; `CannotTrain` is recorded as a refusal.
        machine: Where it ran.

    Returns:
        The error in one line, with the file that holds the traceback if there is one.

    Raises:
        Busy: Another process has taken the folder, which records what becomes of the run.
    """
    check_held()
    message, trace = describe(experiment, error)
    status = 'refused' if isinstance(error, CannotTrain) else 'failed'
    record = {**experiment.header, 'status': status, 'error': message}
    try:
        log(experiment, trace)
        if experiment.recorded() is not None:
            again.failed(experiment, status, message)
        else:
            keep_other(experiment)
            store.write(
                experiment.folder / store.RECORD,
                {**record, **environment.circumstances(machine.device, machine.grid)},
            )
    except (UserError, OSError, store.RecordError):  # of options, such as nan, that no record holds
        return message
    return f'{message} (see {experiment.folder / training.LOG})' if trace is not None else message
