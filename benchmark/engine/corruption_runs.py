"""Tests the runs of a command under corruptions: what is tested already is skipped.

Several processes may do so in one results folder, as they may train there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmark.dataset import Dataset
from benchmark.engine.building import Machine, use_gpu
from benchmark.engine.corrupted import Bench
from benchmark.engine.execution import describe, deterministic, log
from benchmark.engine.experiment import Experiment
from benchmark.engine.grid import WAIT
from benchmark.engine.jobs import share
from benchmark.engine.loading import split_of
from benchmark.engine.locks import Busy, holding
from benchmark.engine.notes import located, named
from benchmark.engine.robustness import Request, known, lacking, test
from benchmark.errors import UserError
from benchmark.progress import Progress, Reporter, duration
from benchmark.records.corruptions import Tests, subsets_of
from benchmark.records.schema import Record
from benchmark.records.units import shown

Helper = Callable[[set[Path], Reporter], bool]
"""Tests runs, given their folders, in a process of its own, and returns whether all are tested. It
can be pickled."""


def execute(
    experiments: Iterable[Experiment],
    machine: Machine,
    request: Request,
    helper: Helper | None = None,
    apart: bool = False,
) -> bool:
    """Tests what is recorded and not tested yet; returns whether all is tested now.

    Args:
        experiments: What a command runs.
        machine: Where to test.
        request: The corruptions.
        helper: What each of several processes does; without it this process does everything.
        apart: Whether one process, too, is another one than this, which outlives its death.
    """
    todo = pending(experiments, request)
    if not todo:
        print('corruptions: what is recorded is tested already')
        return True
    show(todo, request)
    jobs = max(1, min(machine.jobs, len(todo))) if helper else 1
    with Progress({}, len(todo), jobs) as progress:
        if helper and (jobs > 1 or apart):
            ok, left = _shared(todo, jobs, machine, progress, helper)
            if ok is not None:
                return ok
            use_gpu(machine.gpus)
            return work(left, machine, request, progress) and len(left) == len(todo)
        use_gpu(machine.gpus)
        return work(todo, machine, request, progress)


def _shared(
    todo: Sequence[tuple[Experiment, Record]],
    jobs: int,
    machine: Machine,
    progress: Progress,
    helper: Helper,
) -> tuple[bool | None, list[tuple[Experiment, Record]]]:
    """Tests in several processes; a run that has ended two of them is not tested any more.

    Returns:
        Whether all is tested, None if a process has died and was not replaced; and the runs that
        have ended no processes.
    """
    rows = {e.folder: (located(e, machine.varied), named(e), e.seed) for e, _ in todo}
    folders = set(rows)  # a process that is started later is given what is left then

    def blame(folder: Path, how: str) -> bool:
        if folder in folders:
            folders.remove(folder)
            progress.fatal(*rows[folder], f'FAILED under corruptions: its process ended: {how}')
        return True

    ok = share(partial(helper, folders), jobs, progress, machine.gpus, blame)
    left = [(e, record) for e, record in todo if e.folder in folders]
    return ok and len(left) == len(todo), left


def pending(experiments: Iterable[Experiment], request: Request) -> list[tuple[Experiment, Record]]:
    """Returns the recorded experiments that lack some of the tests, with their records."""
    every = {e.folder: e for e in experiments}.values()
    found = [(e, cast(Record, record)) for e in every if (record := e.recorded()) is not None]
    return [(e, r) for e, r in found if lacking(known(e.folder, r), request, e.data.task)]


def show(todo: Sequence[tuple[Experiment, Mapping[str, Any] | None]], request: Request) -> None:
    """Prints what would be tested, and how long that may take.

    Args:
        todo: Experiments with their records, None for those that have not run yet.
        request: The corruptions.
    """
    for data in dict.fromkeys(e.data for e, _ in todo):
        own = [record for e, record in todo if e.data is data]
        inputs, tests = request.size(data.task)
        seconds = [expected(record, request, data) for record in own if record is not None]
        about = f'about {duration(sum(seconds) / len(seconds))} a run' if seconds else ''
        told = about or 'the time is told once a run is recorded'
        print(
            f'corruptions: {data.name}: {len(own)} run{"s" if len(own) > 1 else ""}, each on '
            f'{inputs} corrupted inputs and {tests} subsets of these; {told}',
            flush=True,
        )


def expected(record: Mapping[str, Any], request: Request, data: Dataset) -> float:
    """Returns the seconds that the tests of a run take, by those of its test on all subsets.

    A corrupted input costs the encoding of one modality and the decoding of its subsets.
    """
    names = data.task.names
    share = max(len(subsets_of(names, names[0])) / len(record['scores']['test']), 1 / len(names))
    return request.size(data.task)[0] * share * record['cost']['test_seconds']


def work(
    todo: Sequence[tuple[Experiment, Record]],
    machine: Machine,
    request: Request,
    told: Reporter,
) -> bool:
    """Tests runs; those that another process has come last.

    Returns:
        Whether all of them are tested now.
    """
    deterministic(machine)
    benches: dict[Dataset, Bench] = {}
    left, ok = list(todo), True
    while left:
        busy = []
        for e, record in left:
            try:
                ok &= _one(e, record, benches, machine, request, told)
            except Busy:
                busy.append((e, record))
        if busy:
            told.waiting(len(busy))
        if len(busy) == len(left):
            time.sleep(WAIT)
        left = busy
    return ok


def _one(
    e: Experiment,
    record: Record,
    benches: dict[Dataset, Bench],
    machine: Machine,
    request: Request,
    told: Reporter,
) -> bool:
    """Tests one run; a failure is told and does not stop the others.

    Raises:
        Busy: Another process has the run.
    """
    try:
        with holding(e.folder):
            if not lacking(known(e.folder, record), request, e.data.task):
                return True
            told.start(located(e, machine.varied), named(e), e.seed, e.folder)
            if e.data not in benches:
                splits = split_of(e.data, 'val'), split_of(e.data, 'test')
                benches[e.data] = Bench(e.data.task, *splits)
            bench = benches[e.data]
            tests = test(e, record, bench, machine, request, lambda s: told.report(s, 0, 0, 0.0))
    except Busy:
        raise
    except (Exception, SystemExit) as error:  # code of a method may end the interpreter
        message, trace = describe(e, error)
        with contextlib.suppress(UserError):
            log(e, trace)
        told.end(f'FAILED under corruptions: {message}')
        return False
    told.end(brief(tests, record))
    return True


def brief(tests: Tests, record: Record) -> str:
    """Tells in one line the clean score of all modalities, and the mean under corruption."""
    whole = '+'.join(record['dataset']['modalities'])
    clean = tests['clean'][whole]['score'] if whole in tests['clean'] else None
    scores = [
        cells[whole]['score']
        for kinds in tests['tests'].values()
        for severities in kinds.values()
        for cells in severities.values()
        if whole in cells
    ]
    known_scores = [score for score in scores if score is not None]
    if clean is None or not known_scores:
        return 'tested under corruptions'
    mean = sum(known_scores) / len(known_scores)
    metric = record['dataset']['metric']
    return f'{metric} {shown(clean, metric)} clean, {shown(mean, metric)} mean under corruption'
