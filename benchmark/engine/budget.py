"""What of a command's experiments fits into a given time, by steps measured on this machine."""

from __future__ import annotations

from benchmark.engine.building import Machine
from benchmark.engine.experiment import Experiment
from benchmark.engine.forecast import Forecast
from benchmark.engine.grid import is_done, steps
from benchmark.engine.notes import located, named
from benchmark.engine.plan import Grid, plain
from benchmark.engine.timetable import Expected, Timetable
from benchmark.engine.tuning import Search
from benchmark.errors import UserError
from benchmark.progress import duration


def within(grid: Grid, machine: Machine, budget: float) -> Grid:
    """Returns what fits into a time, and prints that and what does not.

    The items are taken in order; one that does not fit is left out, and later ones may fit. What is
    recorded takes no time, and of a stopped training the rest counts. A search is taken with all
    its trials and seeds, or not at all.

    Args:
        grid: What would run.
        machine: Where it would run. Of several jobs each has the whole time.
        budget: Seconds.

    Raises:
        UserError: There is something to run, and nothing of it fits.
    """
    forecast, kept = Forecast(machine), []
    fitting: list[float] = []
    left_out: list[float] = []
    timetable = Timetable(machine.jobs)
    for item in grid:
        todo = [e for e in steps(item) if not is_done(e)]
        if not todo:
            kept.append(item)
            continue
        before = forecast.trained
        each = [_expected(forecast, e) for e in todo]
        took = sum(expected.seconds for expected in each)
        later = timetable.copy()
        for e, expected in zip(todo, each, strict=True):
            later.add(item, expected, e.trial)
        fits = later.end <= budget
        told = f'{located(plain(item), machine.varied)}  {_name(item)}  about {duration(took)}'
        print(f'{"fits" if fits else "left out":8}  {told}', flush=True)
        if fits:
            kept.append(item)
            fitting.append(took)
            timetable = later
        else:
            forecast.trained = before  # its teacher would be trained by another
            left_out.append(took)
    if left_out and not fitting:
        raise UserError(
            f'--budget: nothing fits into {duration(budget)}; the shortest takes about '
            f'{duration(min(left_out))}'
        )
    if fitting:
        beside = f', {machine.jobs} experiments at a time' if machine.jobs > 1 else ''
        print(
            f'budget of {duration(budget)}: {len(fitting)} of {len(fitting) + len(left_out)} fit, '
            f'expected {duration(timetable.end)}{beside}'
            f'{"; the others are not begun" if left_out else ""}'
        )
    return kept


def _expected(forecast: Forecast, e: Experiment) -> Expected:
    """Returns how long an experiment will take; one that fails in its first steps ends at once."""
    try:
        _ = e.readable
        return forecast.expected(e, tests=not e.trial)
    except (Exception, SystemExit):  # whatever it is, the run records it
        return Expected(0.0, {})


def _name(item: Experiment | Search) -> str:
    if isinstance(item, Search):
        seeds = ' '.join(map(str, item.seeds))
        return f'{item.label}  {item.trials} trials, seeds {seeds}'
    return f'{named(item)}  seed {item.seed}'
