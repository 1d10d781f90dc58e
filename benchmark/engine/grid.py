"""Runs a grid of experiments: what is recorded is skipped, what fails stops nothing else.

Several processes may run the same grid, or grids that share experiments, in one results folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.engine import notes, trials
from benchmark.engine.again import Stamped, Stamps, changed, stamps
from benchmark.engine.building import Machine, use_gpu
from benchmark.engine.contents import FAILED
from benchmark.engine.execution import describe, failure, run
from benchmark.engine.experiment import CannotTrain, Experiment
from benchmark.engine.fitting import is_fitted
from benchmark.engine.jobs import share
from benchmark.engine.locks import Busy, holding
from benchmark.engine.notes import located, named
from benchmark.engine.plan import Grid
from benchmark.engine.state import is_trained, read_json
from benchmark.engine.tuning import Search, announce
from benchmark.errors import UserError
from benchmark.progress import Progress, Reporter
from benchmark.records import store
from benchmark.records.schema import Record

Brief = Callable[[Record], str]
"""Tells a record in one line."""

Helper = Callable[[Stamps, Reporter], bool]
"""What one of several processes does: it takes what is free of the command's experiments, and
returns whether all of them are recorded. It can be pickled."""

Attempt = Callable[[Experiment], bool]
"""Runs one experiment whose folder is held; returns whether it succeeded, and prints its line."""

WAIT = 1.0
"""Seconds between two looks at the experiments that other processes run."""


def execute(
    grid: Grid,
    machine: Machine,
    force: bool,
    brief: Brief,
    helper: Helper | None = None,
    apart: bool = False,
) -> bool:
    """Runs what is not recorded; returns whether everything is recorded now.

    Args:
        grid: What to run.
        machine: Where to run it.
        force: Run again what is recorded.
        brief: Tells a finished run in one line.
        helper: What each of several processes does; without it this process does everything.
        apart: Whether one process, too, is another one than this, which outlives its death.
    """
    every = [e for item in grid for e in steps(item)]
    todo = [e for e in every if force or not is_done(e)]
    if len(todo) < len(every):
        print(f'{len(every) - len(todo)} of {len(every)} experiments are recorded already')
    notes.tell(todo)
    # Whatever changes after this moment was done by another process.
    before = {e.folder: stamps(e) for e in every}
    jobs = max(1, min(machine.jobs, len(todo))) if helper else 1
    with Progress(_epochs_to_train(todo, force, machine.varied), len(todo), jobs) as progress:
        worker = Worker(machine, progress, force, brief, before)
        if helper and todo and (jobs > 1 or apart):
            job, blame = partial(helper, before), partial(deadly, grid, worker, progress)
            if (ok := share(job, jobs, progress, machine.gpus, blame)) is not None:
                return ok
        # A job has died before it took anything: what it left is done here.
        use_gpu(machine.gpus)
        return worker.work(grid)


def deadly(grid: Grid, worker: Worker, progress: Progress, folder: Path, how: str) -> bool:
    """Records that an experiment ends whatever process runs it, so that none does so any more.

    Args:
        grid: What the command runs.
        worker: Does not run it, either.
        progress: Tells it.
        folder: The folder of the experiment.
        how: How its processes have ended.

    Returns:
        Whether it is recorded; it is not while another process has begun it, or on a full disk.
    """
    error = UserError(f'its process ended: {how}')
    # The seeds of a search have their options once its trials have ended.
    found = [e for item in grid for e in steps(item) if e.folder == folder]
    for e in found:
        if folder not in worker.ended:
            progress.fatal(worker._data(e), named(e), e.seed, f'FAILED: {error}')
            worker.ended[folder] = False
        with contextlib.suppress(Busy, UserError), holding(folder):
            (trials.fail if e.trial else failure)(e, error, worker.machine)
    return any(any(worker._changed(e)) for e in found)


def steps(item: Experiment | Search) -> list[Experiment]:
    """Returns all that an item of a grid trains, in order."""
    if isinstance(item, Search):
        return [*item.experiments, *item.tuned(item.read())]
    return [item]


def is_done(e: Experiment) -> bool:
    """Returns whether an experiment has a record, or a trial a result that would not change."""
    if e.trial:
        return trials.settled(trials.result_of(e))
    return e.recorded() is not None


def _epochs_to_train(
    todo: list[Experiment], force: bool, varied: Sequence[str] = ()
) -> dict[str, int]:
    """Returns per data set the epochs of all networks that are not trained yet, teachers once."""
    everything = [x for e in todo for x in (*e.earlier.values(), e) if not is_fitted(x.method)]
    networks = {part.folder: (part, x) for x in everything for part in x.parts}
    # A teacher that is no row of its own is not trained again.
    again = {part.folder for e in todo for part in e.parts} if force else set()
    epochs: dict[str, int] = {}
    for part, x in networks.values():
        if part.folder in again or not is_trained(part.folder, x.identity_of(part)):
            data = located(x, varied)
            epochs[data] = epochs.get(data, 0) + x.protocol.epochs
    return epochs


class Worker:
    """Runs the experiments of one command; those that another process runs are left to it.

    Args:
        machine: Where to run them.
        progress: Is told what runs.
        force: Run again what is recorded.
        brief: Tells a finished run in one line.
        before: Folder of each experiment of the command -> its stamps when the command began.
    """

    def __init__(
        self,
        machine: Machine,
        progress: Reporter,
        force: bool,
        brief: Brief,
        before: Stamps,
    ) -> None:
        self.machine, self.progress, self.force, self.brief = machine, progress, force, brief
        self.before = before
        self.ended: dict[Path, bool] = {}

    def work(self, grid: Grid) -> bool:
        """Runs all items; those in which another process works come last.

        Returns:
            Whether everything is recorded now.
        """
        left, all_ended = list(grid), True
        while left:
            busy = []
            for item in left:
                ended = self._search(item) if isinstance(item, Search) else self._one(item)
                if ended is None:
                    busy.append(item)
                else:
                    all_ended &= ended
            if busy:
                self.progress.waiting(len(busy))
            if len(busy) == len(left):
                time.sleep(WAIT)
            left = busy
        return all_ended

    def _search(self, search: Search) -> bool | None:
        """Runs the trials that have no result, then the seeds with the best options.

        Returns:
            Whether all seeds are recorded, None while another process runs a part.
        """
        with contextlib.suppress(UserError):  # a full disk is told where it does harm
            announce(search)
        # A trial may fail without harm: it is never chosen.
        if None in [self._one(trial) for trial in search.experiments]:
            return None
        results = search.read()
        why, attempt = search.why_not(results), self._attempt
        if why is not None:

            def attempt(e: Experiment) -> bool:
                return self._fail(e, UserError(why))

        found = [self._one(e, attempt) for e in search.tuned(results)]
        return None if None in found else all(found)

    def _one(self, e: Experiment, attempt: Attempt | None = None) -> bool | None:
        """Runs one experiment or trial unless that has been done.

        Returns:
            Whether it succeeded, None if another process runs it at this moment.
        """
        if e.folder in self.ended:
            return self.ended[e.folder]
        if not self.force and is_done(e) and not self._changed(e).record:
            return True
        try:
            with holding(e.folder):
                ended = self._elsewhere(e)
                if ended is None:
                    self.progress.start(self._data(e), named(e), e.seed, e.folder)
                    ended = (attempt or (self._try if e.trial else self._attempt))(e)
        except Busy:
            return None
        except (UserError, OSError) as error:  # of the disk, where nothing can be recorded
            self.progress.end(f'FAILED: {describe(e, error)[0]}')
            ended = False
        self.ended[e.folder] = ended
        return ended

    def _data(self, e: Experiment) -> str:
        return located(e, self.machine.varied)

    def _changed(self, e: Experiment) -> Stamped:
        return changed(e, self.before.get(e.folder))

    def _elsewhere(self, e: Experiment) -> bool | None:
        """Tells what another process made of an experiment since the command began, if it did."""
        new = self._changed(e)
        if self.force and new.failed and (why := read_json(e.folder / FAILED, e.identity)):
            return self._told_failure(e, why)
        if not new.record:
            return None
        if e.trial:
            result = trials.result_of(e)
            if result is None:
                return None
            self._told(e, f'{trials.brief(e, result)}, run by another process')
            return 'score' in result
        try:
            record = store.read(e.folder / store.RECORD)
        except store.RecordError:
            return None
        if record['identity'] != e.identity:
            return None
        if record['status'] == 'complete':
            self._told(e, f'{self.brief(record)}, run by another process')
            return True
        return self._told_failure(e, record)

    def _told_failure(self, e: Experiment, found: Mapping[str, Any]) -> bool:
        word = 'refused' if found['status'] == 'refused' else 'FAILED'
        self._told(e, f'{word} in another process: {found["error"]}')
        return False

    def _told(self, e: Experiment, outcome: str) -> None:
        self.progress.elsewhere(self._data(e), named(e), e.seed, outcome)

    def _try(self, trial: Experiment) -> bool:
        result = trials.attempt(trial, self.machine, self.progress.report, self.force)
        self.progress.end(trials.brief(trial, result))
        return 'score' in result

    def _attempt(self, e: Experiment) -> bool:
        """Runs one experiment; a failure is recorded and does not stop the others."""
        try:
            record = run(e, self.machine, self.progress.report, self.force)
        except Busy:
            raise
        except (Exception, SystemExit) as error:  # code of a method may end the interpreter
            return self._fail(e, error)
        self.progress.end(self.brief(record))
        return True

    def _fail(self, e: Experiment, error: BaseException) -> bool:
        word = 'refused' if isinstance(error, CannotTrain) else 'FAILED'
        self.progress.end(f'{word}: {failure(e, error, self.machine)}')
        return False
