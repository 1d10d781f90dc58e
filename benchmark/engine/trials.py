"""Trials of a search: each is trained and validated, and what became of it is kept."""

from __future__ import annotations

import math
import time
from typing import Any

from benchmark import tested
from benchmark.engine import again, environment, execution, state
from benchmark.engine.building import Machine
from benchmark.engine.contents import FAILED, TRIAL
from benchmark.engine.experiment import Experiment
from benchmark.engine.hooks import TrainingDiverged
from benchmark.engine.locks import Busy
from benchmark.errors import UserError
from benchmark.records.units import shown


def result_of(trial: Experiment) -> dict[str, Any] | None:
    """Returns what became of this very trial, if it ended."""
    found = state.read_json(trial.folder / TRIAL, trial.identity)
    if found is not None and not _is_result(found):
        state.name(trial.folder / TRIAL, 'it is no result of a trial')
        return None
    return found


def _is_result(found: dict[str, Any]) -> bool:
    """Returns whether a result holds what a search reads."""
    score, seconds = found.get('score'), found.get('seconds')
    if not isinstance(seconds, int | float):
        return False
    if found.get('status') == 'complete':
        return isinstance(score, int | float) and math.isfinite(score)
    return found.get('status') in ('diverged', 'failed') and isinstance(found.get('error'), str)


def settled(result: dict[str, Any] | None) -> bool:
    """Returns whether a repetition could not change a trial's result.

    Divergence is a result of the setting; what else went wrong may have been mended.
    """
    return result is not None and result['status'] in ('complete', 'diverged')


def attempt(
    trial: Experiment, machine: Machine, report: execution.Report, force: bool = False
) -> dict[str, Any]:
    """Runs one trial and records its result, going on from where an earlier run stopped.

    Args:
        trial: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists.

    Returns:
        The result, which has been written: 'status' 'complete' with 'score', or 'diverged' or
        'failed' with 'error'.

    Raises:
        Busy: Another process trains the teacher.
        UserError: The folder cannot be written.
    """
    started = time.perf_counter()
    try:
        result = _train(trial, machine, report, force)
    except Busy:
        raise
    except (Exception, SystemExit) as error:  # whatever a setting does, the others are tried
        return fail(trial, error, machine, time.perf_counter() - started)
    _write(trial, result, machine)
    return result


def fail(
    trial: Experiment, error: BaseException, machine: Machine, seconds: float = 0.0
) -> dict[str, Any]:
    """Records that a trial ended in an error; a result that a repetition could not change stays.

    Args:
        trial: The trial.
        error: The error; a divergence is a result.
        machine: Where it ran.
        seconds: How long it ran, if that is known.

    Returns:
        The result, as of `attempt`.

    Raises:
        UserError: The folder cannot be written.
    """
    message, trace = execution.describe(trial, error)
    execution.log(trial, trace)
    status = 'diverged' if isinstance(error, TrainingDiverged) else 'failed'
    result = {'status': status, 'error': message, 'seconds': seconds}
    if status == 'failed' and settled(result_of(trial)):
        again.failed(trial, status, message)
    else:
        _write(trial, result, machine)
    return result


def _write(trial: Experiment, result: dict[str, Any], machine: Machine) -> None:
    whole = {**trial.header, **result, **environment.circumstances(machine.device, machine.grid)}
    state.write_json(trial.folder / TRIAL, whole)
    state.discard(trial.folder, FAILED)
    if result['status'] != 'failed':
        execution.clear(trial)  # the weights of N trials would fill a disk, and nothing reads them


def _train(
    trial: Experiment, machine: Machine, report: execution.Report, force: bool
) -> dict[str, Any]:
    trained, earlier = execution.train(trial, machine, report, force)
    found = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    return {
        'status': 'complete',
        'score': _validation_mean(trial, found),
        'scores': {s: v['metrics'] for s, v in found.items()},
        'n': {s: v['n'] for s, v in found.items()},
        'seconds': sum(summary['seconds'] for _, summary in trained),
        'teacher_seconds': earlier['seconds'] + earlier.get('pretrain_seconds', 0.0),
    }


def _validation_mean(trial: Experiment, found: dict[str, dict[str, Any]]) -> float:
    """Returns the mean over subsets, estimated where a sample of them is tested.

    Raises:
        UserError: The validation split gives no score to compare.
    """
    task = trial.data.task
    values = {subset: score['metrics'][task.metric] for subset, score in found.items()}
    lacking = [subset for subset, value in values.items() if not math.isfinite(value)]
    if lacking or not values:
        raise UserError(
            f'--tune: expected {task.metric} on the validation split for '
            f'{", ".join(lacking) or "some subset"}, found samples or classes missing there'
        )
    return tested.mean(values, len(task.names), trial.protocol.subsets)


def brief(trial: Experiment, result: dict[str, Any]) -> str:
    """Tells a trial's result in a few words."""
    if 'score' not in result:
        log = trial.folder / 'train.log'
        where = f' (see {log})' if result['status'] == 'failed' and log.is_file() else ''
        return f'FAILED: {result["error"]}{where}'
    metric = trial.data.task.metric
    return f'validation {metric} {shown(result["score"], metric)} mean'
