"""Runs a grid of experiments: what is recorded is skipped, what fails stops nothing else."""

from __future__ import annotations

from collections.abc import Callable

from benchmark.engine import tuning
from benchmark.engine.building import Machine
from benchmark.engine.execution import failure, run
from benchmark.engine.experiment import Experiment
from benchmark.engine.forecast import Forecast
from benchmark.engine.plan import Grid, plain, refusals
from benchmark.engine.state import is_trained
from benchmark.engine.tuning import Search
from benchmark.errors import COMPLETE_ONLY, UserError
from benchmark.progress import Progress, clock
from benchmark.records.schema import Record

Brief = Callable[[Record], str]
"""Tells a record in one line."""


def execute(grid: Grid, machine: Machine, force: bool, brief: Brief) -> bool:
    """Runs what is not recorded; returns whether everything is recorded now.

    Args:
        grid: What to run.
        machine: Where to run it.
        force: Run again what is recorded.
        brief: Tells a finished run in one line.
    """
    every = [e for item in grid for e in _steps(item)]
    todo = [e for e in every if force or not is_done(e)]
    if len(todo) < len(every):
        print(f'{len(every) - len(todo)} of {len(every)} experiments are recorded already')
    with Progress(_epochs_to_train(todo, force), len(todo)) as progress:
        return all([_run(item, machine, progress, force, brief) for item in grid])


def _steps(item: Experiment | Search) -> list[Experiment]:
    """Returns all that an item trains, in order."""
    if isinstance(item, Search):
        return [*item.experiments, *item.tuned(item.read())]
    return [item]


def is_done(e: Experiment) -> bool:
    """Returns whether an experiment has a record, or a trial a result that would not change."""
    if e.trial:
        return tuning.settled(tuning.result_of(e))
    return e.recorded() is not None


def _epochs_to_train(todo: list[Experiment], force: bool) -> dict[str, int]:
    """Returns per data set the epochs of all networks that are not trained yet, teachers once."""
    everything = [x for e in todo for x in (e.teacher, e) if x is not None]
    networks = {part.folder: (part, x) for x in everything for part in x.parts}
    epochs: dict[str, int] = {}
    for part, x in networks.values():
        if force or not is_trained(part.folder, x.identity):
            epochs[x.data.name] = epochs.get(x.data.name, 0) + x.protocol.epochs
    return epochs


def _run(
    item: Experiment | Search, machine: Machine, progress: Progress, force: bool, brief: Brief
) -> bool:
    if isinstance(item, Search):
        return _run_search(item, machine, progress, force, brief)
    return (not force and is_done(item)) or _attempt(item, machine, progress, force, brief)


def _run_search(
    search: Search, machine: Machine, progress: Progress, force: bool, brief: Brief
) -> bool:
    """Runs the trials that have no result, then the seeds with the best options."""
    for trial in search.experiments:
        if force or not is_done(trial):
            # A trial may fail without harm: it is never chosen.
            progress.start(trial.data.name, named(trial), trial.seed)
            result = tuning.attempt(trial, machine, progress.report, force)
            progress.end(tuning.brief(trial, result))
    results = search.read()
    why = search.why_not(results)
    seeds = search.tuned(results)
    if why is None:
        return all([_run(e, machine, progress, force, brief) for e in seeds])
    for e in seeds:
        progress.start(e.data.name, named(e), e.seed)
        progress.end(f'FAILED: {failure(e, UserError(why), machine)}')
    return False


def _attempt(
    e: Experiment, machine: Machine, progress: Progress, force: bool, brief: Brief
) -> bool:
    """Runs one experiment; a failure is recorded and does not stop the others."""
    progress.start(e.data.name, named(e), e.seed)
    try:
        record = run(e, machine, progress.report, force)
    except Exception as error:
        progress.end(f'FAILED: {failure(e, error, machine)}')
        return False
    progress.end(brief(record))
    return True


def named(e: Experiment) -> str:
    """Returns an experiment's label, with the missing rates of its training data."""
    return f'{e.label}  rates={e.protocol.rates}' if e.protocol.rates else e.label


def without_refused(grid: Grid, machine: Machine, dry_run: bool) -> Grid:
    """Names and records what cannot train on its data, and returns the rest.

    Raises:
        UserError: Nothing is left.
    """
    refused = refusals(grid)
    firsts = [plain(item) for item, _ in refused]
    # Seeds of one row are told once.
    for row in dict.fromkeys(f'{e.data.name}  {named(e)}' for e in firsts):
        print(f'not run   {row}  it {COMPLETE_ONLY}')
    if refused and len(refused) == len(grid):
        raise UserError(f'--gaps: nothing is left to run: {refused[0][1]}')
    if not dry_run:
        for item, error in refused:
            for e in item.tuned(item.read()) if isinstance(item, Search) else [item]:
                failure(e, error, machine)
    out = {id(item) for item, _ in refused}
    return [item for item in grid if id(item) not in out]


def show_plan(grid: Grid, machine: Machine) -> None:
    """Prints every experiment, whether it is recorded, and the time it is expected to take."""
    total, forecast = 0.0, Forecast(machine)
    for e in (e for item in grid for e in _steps(item)):
        line = f'{e.data.name}  {named(e)}  seed {e.seed}  {e.protocol_id}'
        if is_done(e):
            print(f'recorded  {line}')
            continue
        seconds = forecast.seconds(e, tests=not e.trial)
        total += seconds
        print(f'to run    {line}  about {clock(seconds)}', flush=True)
    print(f'expected: {clock(total)} on {machine.device}, from steps measured just now')
