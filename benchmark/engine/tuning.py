"""Equal tuning: every method tries the same number of settings before its seeds run.

Trial 0 is the setting that applies without tuning, the others are drawn from the method's search
space (`benchmark.search`). All are trained under the protocol and compared by the mean over
subsets of the validation metric at the epoch that the protocol selects; the test split is not
opened. Trials lie at `<results>/tuning/<dataset>/<method variant>/<protocol id>/trial<k>/`, without
their weights, and belong to every search of so many trials or more.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.engine import environment, execution
from benchmark.engine.experiment import Experiment, Machine
from benchmark.engine.hooks import TrainingDiverged
from benchmark.errors import UserError
from benchmark.files import writing
from benchmark.missing import derive
from benchmark.records import store
from benchmark.records.metrics import higher_is_better
from benchmark.search import draw

SEED = derive(0, 'tuning')
"""Seed of every trial. It is none that a run is given: the runs of a tuned row start from weights,
masks and orders whose luck chose nothing, and a search is the same whichever seeds follow it."""

FILE = 'trial.json'


@dataclass(frozen=True)
class Trial(Experiment):
    """One setting of a search, trained at the tuning seed and scored on validation alone.

    Attributes:
        number: Its place in the search; None for the teacher that all trials share.
    """

    number: int | None = 0

    @functools.cached_property
    def drawn(self) -> dict[str, Any]:
        """The options that differ from the untuned setting, which trial 0 is."""
        number = self.number or 0
        return {k: draw(self.name, k, number, d) for k, d in self.space.items() if number}

    @property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter with the value that applies."""
        return {**self.untuned, **self.drawn}

    @property
    def tried(self) -> dict[str, Any]:
        """The options that the search chooses, with this trial's values."""
        return {key: self.options[key] for key in self.space}

    @property
    def source(self) -> str:
        """Who chose the options."""
        return 'tuned' if self.drawn else super().source

    @property
    def label(self) -> str:
        """The trial's name, with what it tries."""
        if self.number is None:
            return self.spec
        values = ', '.join(f'{key}={value}' for key, value in self.tried.items())
        return f'{self.spec} trial {self.number} ({values})'

    @property
    def folder(self) -> Path:
        """Where this trial's files go."""
        return self.place('tuning') / ('teacher' if self.number is None else f'trial{self.number}')

    def teacher(self) -> Experiment | None:
        """The teacher of all trials on these data."""
        found = super().teacher()
        return found and _as_trial(found, None)

    def outcome(self) -> dict[str, Any] | None:
        """Returns what became of this very trial, if it ended."""
        try:
            found = json.loads((self.folder / FILE).read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return None
        return found if found.get('identity') == self.header()['identity'] else None

    def recorded(self) -> dict[str, Any] | None:
        """Returns the outcome where a repetition could not change it.

        Divergence is a result of the setting; what else went wrong may have been mended.
        """
        found = self.outcome()
        return found if found and found['status'] in ('complete', 'diverged') else None


@dataclass(frozen=True)
class Tuned(Experiment):
    """One seed of a method with the options of the best of its trials.

    Attributes:
        trials: Number N of trials, 2 or more.
    """

    trials: int = 2

    @property
    def label(self) -> str:
        """The row's name."""
        return f'{self.spec} (tuned {self.trials})'

    @property
    def folder(self) -> Path:
        """Where this experiment's files go."""
        return self.place('runs', f'-tuned{self.trials}') / f'seed{self.seed}'

    @property
    def source(self) -> str:
        """Who chose the options."""
        return 'tuned'

    @functools.cached_property
    def candidates(self) -> list[Trial]:
        """The search: its trials in order."""
        return [_as_trial(self, number) for number in range(self.trials)]

    @property
    def best(self) -> Trial | None:
        """The trial of the best score, the first of equals; None where none has ended well."""
        sign = 1 if higher_is_better(self.data.task.metric) else -1
        outcomes = [trial.outcome() or {} for trial in self.candidates]
        scores = [sign * found['score'] if 'score' in found else -math.inf for found in outcomes]
        first = scores.index(max(scores))
        return None if scores[first] == -math.inf else self.candidates[first]

    @property
    def options(self) -> dict[str, Any]:
        """Every hyper-parameter with the value that applies; before the search the untuned ones."""
        best = self.best
        return self.untuned if best is None else best.options

    def ready(self) -> None:
        """Checks that the search has found something.

        Raises:
            UserError: Trials are still to be run, or all have failed.
        """
        outcomes = [trial.outcome() for trial in self.candidates]
        if None in outcomes:
            raise UserError(f'{self.label}: expected {self.trials} trials to have run before it')
        if self.best is None:
            (first, *_) = (found['error'] for found in outcomes if found)
            raise UserError(f'all {self.trials} trials failed, the first one: {first}')

    def header(self) -> dict[str, Any]:
        """Returns the part of the record that is known before anything runs, with the search."""
        outcomes = [trial.outcome() or {} for trial in self.candidates]
        best = self.best
        tuning = {
            'trials': self.trials,
            'seed': SEED,
            'space': {key: str(distribution) for key, distribution in self.space.items()},
            'tried': [
                {'options': trial.tried, 'score': found.get('score')}
                for trial, found in zip(self.candidates, outcomes, strict=True)
            ],
            'chosen': best and best.number,
            'seconds': sum(found.get('seconds', 0.0) for found in outcomes)
            + max(found.get('teacher_seconds', 0.0) for found in outcomes),
        }
        header = {**super().header(), 'tuning': tuning}
        return {**header, 'identity': store.identity(header)}

    def recorded(self) -> Any:
        """Returns this experiment's complete record, if there is one and its search has ended."""
        ended = all(trial.recorded() for trial in self.candidates)
        return super().recorded() if ended else None


def _as_trial(e: Experiment, number: int | None) -> Trial:
    return Trial(e.name, e.given, e.data, e.protocol, SEED, e.results, number)


def expand(experiment: Experiment, trials: int) -> list[Experiment]:
    """Returns what tuning makes of an experiment: the trials and the tuned experiment after them.

    A method that has nothing to tune, or nothing left beside the options given, stays as it is.
    """
    if not experiment.space:
        return [experiment]
    fields = {f.name: getattr(experiment, f.name) for f in dataclasses.fields(experiment)}
    tuned = Tuned(**fields, trials=trials)
    return [*tuned.candidates, tuned]


def attempt(
    trial: Trial, machine: Machine, report: execution.Report, force: bool = False
) -> dict[str, Any]:
    """Runs one trial and records what became of it, going on from where an earlier run stopped.

    Args:
        trial: What to run.
        machine: Where to run it.
        report: Told about the progress.
        force: Train anew although a finished training exists.

    Returns:
        The outcome, which has been written: 'status' 'complete' with 'score', or 'diverged' or
        'failed' with 'error'.

    Raises:
        UserError: The folder cannot be written.
    """
    started = time.perf_counter()
    try:
        outcome = _train(trial, machine, report, force)
    except Exception as error:  # whatever a setting does to a method, the others are tried
        message, trace = execution.describe(error)
        execution.log(trial, trace)
        status = 'diverged' if isinstance(error, TrainingDiverged) else 'failed'
        seconds = time.perf_counter() - started
        outcome = {'status': status, 'error': message, 'seconds': seconds}
    whole = {**trial.header(), **outcome, **environment.circumstances(machine.device)}
    with writing(trial.folder / FILE) as file:
        file.write(f'{json.dumps(whole, indent=1, sort_keys=True)}\n'.encode())
    if outcome['status'] != 'failed':
        execution.clear(trial)  # the weights of N trials would fill a disk, and nobody needs them
    return outcome


def _train(trial: Trial, machine: Machine, report: execution.Report, force: bool) -> dict[str, Any]:
    trained, teacher_cost = execution.train(trial, machine, report, force)
    found = {s: v for _, summary in trained for s, v in summary['scores'].items()}
    return {
        'status': 'complete',
        'score': _validation_mean(trial.data.task.metric, found),
        'scores': {s: v['metrics'] for s, v in found.items()},
        'n': {s: v['n'] for s, v in found.items()},
        'seconds': sum(summary['seconds'] for _, summary in trained),
        'teacher_seconds': teacher_cost['seconds'],
    }


def _validation_mean(metric: str, found: dict[str, dict[str, Any]]) -> float:
    """Returns the mean over subsets.

    Raises:
        UserError: The validation split gives no score to compare.
    """
    values = {subset: score['metrics'][metric] for subset, score in found.items()}
    lacking = [subset for subset, value in values.items() if not math.isfinite(value)]
    if lacking or not values:
        raise UserError(
            f'--tune: expected {metric} on the validation split for '
            f'{", ".join(lacking) or "some subset"}, found samples or classes missing there'
        )
    return sum(values.values()) / len(values)


def brief(trial: Trial, outcome: dict[str, Any]) -> str:
    """Tells a trial's outcome in a few words."""
    if 'score' not in outcome:
        log = trial.folder / 'train.log'
        where = f' (see {log})' if outcome['status'] == 'failed' and log.is_file() else ''
        return f'FAILED: {outcome["error"]}{where}'
    return f'validation {trial.data.task.metric} {100 * outcome["score"]:.2f} % mean'
