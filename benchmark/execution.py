"""Runs an experiment to its record: teacher, training, selection, test."""

from __future__ import annotations

import contextlib
import functools
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmark import cost, environment, hooks, records, training
from benchmark.dataset import Split
from benchmark.errors import UserError
from benchmark.evaluation import SubsetEvaluator
from benchmark.experiment import Experiment, Machine, Part, build, gaps, loaders, splits
from benchmark.loading import Samples, test_loader
from benchmark.method import Method
from benchmark.missing import mask_hash

COLLAPSE = 0.999
"""A subset whose predictions are one class to at least this share counts as collapsed."""

Report = Callable[[str, int, int, float], None]
"""Called with (stage, finished epochs, epochs, seconds of this stage so far)."""


def run(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> records.Record:
    """Runs one experiment to its record, going on from wherever an earlier run stopped.

    Args:
        experiment: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists.

    Returns:
        The record, which has been written.

    Raises:
        UserError: The method cannot train on these data, or the folder cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    trained, teacher_cost = train(experiment, machine, report, force)
    report('testing', 0, 0, 0.0)
    return _assemble(experiment, machine, trained, teacher_cost)


def train(
    experiment: Experiment, machine: Machine, report: Report, force: bool = False
) -> tuple[list[tuple[Method, dict[str, Any]]], dict[str, Any]]:
    """Trains an experiment's networks, after its teacher; the test split is not opened.

    Returns:
        Each network with what is known of its training, and what the teacher took.

    Raises:
        UserError: The method cannot train on these data, or the folder cannot be written.
        TrainingDiverged: A loss became NaN or infinite.
    """
    experiment.ready()
    if force:
        clear(experiment)
    _prepare(machine)
    gaps(experiment, splits(experiment.data, 'train'))  # refuses before a teacher is trained
    teacher = experiment.teacher()
    teacher_cost = {'seconds': 0.0, 'peak_memory_mb': 0.0}
    mentor = None
    if teacher is not None:
        stage = functools.partial(report, f'teacher {teacher.label}')
        mentor, teacher_cost = _train_part(teacher, teacher.parts()[0], machine, None, stage)
    trained = []
    for part in experiment.parts():
        stage = functools.partial(report, part[2][0] if part[2] else 'training')
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
    for folder, _, _ in experiment.parts():
        for name in ('resume.pth', 'best.pth', 'checkpoint.pth', 'trained.json'):
            (folder / name).unlink(missing_ok=True)


def _train_part(
    experiment: Experiment,
    part: Part,
    machine: Machine,
    mentor: Method | None,
    report: Callable[[int, int, float], None],
) -> tuple[Method, dict[str, Any]]:
    """Returns one trained network and what is known of its training, from disk where finished."""
    folder, _, only = part
    identity = experiment.header()['identity']
    method = build(experiment, machine.device)
    done = folder / 'trained.json'
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
            training.Job(folder, identity, experiment.seed, machine.device, only),
            lambda epoch, seconds: report(epoch, epochs, seconds),
        )
        summary['peak_memory_mb'] = cost.peak_memory(machine.device)
        hooks.save_atomically(method.state_dict(), folder / 'checkpoint.pth')
        with records.atomic(done) as file:
            file.write(json.dumps({'identity': identity, **summary}).encode())
        for leftover in ('resume.pth', 'best.pth'):
            (folder / leftover).unlink(missing_ok=True)
    return method.eval(), summary


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


def _assemble(
    experiment: Experiment,
    machine: Machine,
    trained: list[tuple[Method, dict[str, Any]]],
    teacher_cost: dict[str, Any],
) -> records.Record:
    """Tests the trained networks and writes outcomes and record, the record last."""
    test = splits(experiment.data, 'test')
    started = time.perf_counter()
    tested = [
        _test_part(experiment, part, machine, method)
        for part, (method, _) in zip(experiment.parts(), trained, strict=True)
    ]
    seconds = time.perf_counter() - started
    scores = {s: score for e in tested for s, score in e.scores.items()}
    val = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    record = {
        **experiment.header(),
        'status': 'complete',
        'scores': {
            'val': {s: v['metrics'] for s, v in val.items()},
            'test': {s: score.metrics for s, score in scores.items()},
        },
        'n': {
            'val': {s: v['n'] for s, v in val.items()},
            'test': {s: score.n for s, score in scores.items()},
        },
        'predicted': {s: list(score.predicted) for s, score in scores.items()},
        'collapsed': [s for s, score in scores.items() if max(score.predicted) >= COLLAPSE],
        'selected_epoch': max(summary['epoch'] for _, summary in trained),
        'gaps': _gap_report(experiment),
        'cost': {
            **_size(experiment, [method for method, _ in trained]),
            'train_seconds': sum(summary['seconds'] for _, summary in trained),
            'teacher_seconds': teacher_cost['seconds'],
            'test_seconds': seconds,
            'peak_memory_mb': max(
                summary['peak_memory_mb'] for summary in [teacher_cost, *(s for _, s in trained)]
            ),
        },
        **environment.circumstances(machine.device),
    }
    outcomes = _outcomes(experiment, test, tested)
    _keep_other(experiment)
    records.write_outcomes(experiment.folder / 'outcomes.npz', outcomes)
    records.write(experiment.folder / 'record.json', cast(records.Record, record))
    return cast(records.Record, record)


def _keep_other(experiment: Experiment) -> None:
    """Moves a record of another version of the method aside instead of overwriting it."""
    file = experiment.folder / 'record.json'
    with contextlib.suppress(records.RecordError):
        found = records.read(file)
        if found['identity'] != experiment.header()['identity']:
            file.rename(file.with_name(f'record-{found["identity"]}.json'))


def _test_part(
    experiment: Experiment,
    part: Part,
    machine: Machine,
    method: Method,
) -> SubsetEvaluator:
    test = splits(experiment.data, 'test')
    samples = Samples(test, experiment.data.task, test.available)
    workers, pin = machine.loader(experiment.data)
    loader = test_loader(samples, 2 * experiment.protocol.batch_size, workers, pin)
    return training.test(method, loader, part[0], machine.device, part[2])


def _gap_report(experiment: Experiment) -> dict[str, Any]:
    train = splits(experiment.data, 'train')
    kept = gaps(experiment, train)
    names = experiment.data.task.names
    return {
        'rates': {m: float(1 - kept[:, k].mean()) for k, m in enumerate(names)},
        'mask_hash': mask_hash(kept),
        'dropped': int((~kept.any(1)).sum()),
    }


def _outcomes(
    experiment: Experiment, test: Split, tested: list[SubsetEvaluator]
) -> dict[str, np.ndarray]:
    """Returns per-sample outcomes of every subset in the order of the test split."""
    arrays: dict[str, np.ndarray] = {}
    task = experiment.data.task
    areas = np.zeros((len(test), 3, len(task.classes)), np.int32)
    if task.metric == 'Dice':
        volumes = len(test) if test.groups is None else len(np.unique(test.groups))
        areas = np.full((volumes, 3, len(task.regions)), -1, np.int64)
    for subset, found in ((s, o) for e in tested for s, o in e.outcomes.items()):
        rows = found['ids']
        if task.kind == 'segmentation':
            arrays[f'areas/{subset}'] = areas.copy()
            arrays[f'areas/{subset}'][rows] = found['areas']
            continue
        arrays[f'pred/{subset}'] = np.full(len(test), -1, np.int16)
        arrays[f'pred/{subset}'][rows] = found['pred']
        arrays[f'score/{subset}'] = np.full(len(test), np.nan, np.float32)
        arrays[f'score/{subset}'][rows] = found['score']
    if task.kind == 'classification':
        arrays['target'] = np.asarray(test.target[np.arange(len(test))]).astype(np.int16)
    return arrays


def _size(experiment: Experiment, methods: list[Method]) -> dict[str, Any]:
    """Returns parameters, those the deployed networks need, and FLOPs per subset."""
    flops: dict[str, int] = {}
    for (_, _, only), method in zip(experiment.parts(), methods, strict=True):
        flops.update(cost.flops(method, only))
    return {
        'parameters': sum(p.numel() for method in methods for p in method.parameters()),
        'deployed_parameters': sum(cost.deployed_parameters(method) for method in methods),
        'flops': flops,
    }


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


def failure(experiment: Experiment, message: str, trace: str | None, machine: Machine) -> str:
    """Records a failed run, unless a complete record stands there already.

    Args:
        experiment: What failed.
        message: Why, in one line.
        trace: The traceback for the log, where it was no mistake of the user's.
        machine: Where it ran.

    Returns:
        Where to read more, for the terminal; empty if nothing could be written.
    """
    record = {**experiment.header(), 'status': 'failed', 'error': message}
    try:
        log(experiment, trace)
        if experiment.recorded() is None:
            _keep_other(experiment)
            records.write(
                experiment.folder / 'record.json',
                {**record, **environment.circumstances(machine.device)},
            )
    except (UserError, OSError):
        return ''
    return f' (see {experiment.folder / "train.log"})' if trace is not None else ''
