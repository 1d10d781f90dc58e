"""What of a command cannot train because its training data have gaps."""

from __future__ import annotations

import contextlib

from benchmark.engine.building import Machine
from benchmark.engine.execution import failure
from benchmark.engine.experiment import CannotTrain, Experiment
from benchmark.engine.locks import Busy, holding
from benchmark.engine.notes import located, named
from benchmark.engine.plan import Grid, plain
from benchmark.engine.tuning import Search
from benchmark.errors import COMPLETE_ONLY, UserError


def refusals(grid: Grid) -> list[tuple[Experiment | Search, CannotTrain]]:
    """Returns what cannot train on its data because these have gaps, and why."""
    found: list[tuple[Experiment | Search, CannotTrain]] = []
    for item in grid:
        first = plain(item)
        if not first.method.needs_complete:
            continue  # spares reading the data
        try:
            _ = first.readable
        except CannotTrain as error:
            found.append((item, error))
        except UserError:
            pass  # whatever else is wrong with the data is told where the experiment runs
    return found


def without_refused(grid: Grid, machine: Machine, dry_run: bool) -> Grid:
    """Names and records what cannot train on its data, and returns the rest.

    Raises:
        UserError: Nothing is left to run; a plan says so at its end.
    """
    refused = refusals(grid)
    firsts = [plain(item) for item, _ in refused]
    # Seeds of one row are told once.
    for row in dict.fromkeys(f'{located(e, machine.varied)}  {named(e)}' for e in firsts):
        print(f'refused   {row}  it {COMPLETE_ONLY}')
    if refused and len(refused) == len(grid) and not dry_run:
        raise UserError(f'--gaps: nothing is left to run: {refused[0][1]}')
    if not dry_run:
        for item, error in refused:
            for e in item.tuned(item.read()) if isinstance(item, Search) else [item]:
                # Another process that has the folder records the same.
                with contextlib.suppress(Busy), holding(e.folder):
                    failure(e, error, machine)
    out = {id(item) for item, _ in refused}
    return [item for item in grid if id(item) not in out]
