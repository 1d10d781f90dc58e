"""The plan of a command: what would run, and how long it is expected to take."""

from __future__ import annotations

import itertools
import sys

from benchmark.engine import corruption_runs, notes
from benchmark.engine.building import Machine
from benchmark.engine.execution import describe
from benchmark.engine.forecast import Forecast, resumed
from benchmark.engine.grid import is_done, steps
from benchmark.engine.notes import located, named
from benchmark.engine.plan import Grid, flat
from benchmark.engine.robustness import Request
from benchmark.engine.timetable import Timetable
from benchmark.progress import duration
from benchmark.streams import unread


def show_plan(
    grid: Grid, machine: Machine, refused: int = 0, corruptions: Request | None = None
) -> bool:
    """Prints every experiment, whether it is recorded, and the time it is expected to take.

    What cannot run is listed with the reason, and the plan goes on, unless nobody reads it.

    Args:
        grid: What would run.
        machine: Where it would run.
        refused: How many refusals were printed before.
        corruptions: What would be tested after the trainings, if anything.

    Returns:
        Whether there is something to run, and nothing is refused.
    """
    planned, forecast, timetable = 0, Forecast(machine), Timetable(machine.jobs)
    every = [(item, e) for item in grid for e in steps(item)]
    notes.tell([e for _, e in every if not is_done(e)])
    for item, e in itertools.takewhile(lambda _: not unread(), every):
        line = f'{located(e, machine.varied)}  {named(e)}  seed {e.seed}  {e.protocol_id}'
        if is_done(e):
            print(f'recorded  {line}')
            continue
        try:
            _ = e.readable
            if not forecast.is_measured(e):  # steps of large networks take minutes
                print(f'measuring  {e.data.name}  {e.name}', file=sys.stderr, flush=True)
            expected = forecast.expected(e, tests=not e.trial)
        except (Exception, SystemExit) as error:  # whatever a method does, the others are told
            refused += 1
            print(f'refused   {line}  {describe(e, error)[0]}', flush=True)
            continue
        timetable.add(item, expected, e.trial)
        planned += 1
        code = ['recorded with other code'] if e.has_other_code else []
        code += [f'{len(e.parts)} networks'] if len(e.parts) > 1 else []
        told = ''.join(f', {words}' for words in [*resumed(e), *code])
        print(f'to run    {line}  about {duration(expected.seconds)}{told}', flush=True)
    jobs = max(1, min(machine.jobs, planned))
    beside = f', {jobs} experiments at a time' if jobs > 1 else ''
    summary = (
        f'expected: {duration(timetable.end)} on {machine.device}{beside}, from steps measured '
        'just now'
    )
    if corruptions:
        corruption_runs.show([(e, e.recorded()) for e in flat(grid)], corruptions)
    print((summary if planned else 'nothing to run') + (f'; {refused} refused' if refused else ''))
    return bool(every) and not refused
