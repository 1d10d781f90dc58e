"""What is shown while experiments run, and one line that stays per result.

On a terminal a line per job moves; elsewhere a line a minute is printed.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Display

from benchmark.shown import printable

EVERY = 60.0
"""Seconds that pass at least between two lines that tell off a terminal what runs."""


def clock(seconds: float) -> str:
    """Returns seconds as '1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


def duration(seconds: float) -> str:
    """Returns seconds as '1 h 2 min', '2 min 3 s' or '3 s'."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f'{minutes // 60} h {minutes % 60} min'
    return f'{minutes} min {rest} s' if minutes else f'{rest} s'


class Reporter(Protocol):
    """What the process that runs experiments tells of them."""

    def start(self, dataset: str, label: str, seed: int, folder: Path | None = None) -> None:
        """Names the experiment that starts, and its folder."""

    def report(self, stage: str, epoch: int, epochs: int, seconds: float) -> None:
        """Takes note of finished epochs of a stage; `seconds` is the stage's time so far."""

    def end(self, outcome: str) -> None:
        """Tells what became of the experiment."""

    def elsewhere(self, dataset: str, label: str, seed: int, outcome: str) -> None:
        """Tells what another process made of an experiment."""

    def waiting(self, count: int) -> None:
        """Tells that nothing is left to do but what other processes run."""


@dataclass
class Job:
    """What runs in one of the processes: a training stage of an experiment."""

    dataset: str = ''
    name: str = ''
    text: str = ''
    words: str = ''
    stage: str = ''
    epoch: int = 0
    before: float = 0.0
    started: float = 0.0
    folder: Path | None = None


class Progress:
    """Shows the running experiments, their epochs and the time left; a context manager.

    On a terminal the lines are redrawn in place. Elsewhere, for example in the log of a queue, a
    line on standard error says at most once a minute, when an epoch has ended, what runs. `job` is
    the number of the process that tells something, from 0.

    Args:
        epochs: Epochs still to train of each data set, over all experiments.
        total: Number of experiments.
        jobs: Number of processes that run experiments at the same time.
        now: Returns the time in seconds.
    """

    def __init__(
        self,
        epochs: dict[str, int],
        total: int,
        jobs: int = 1,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._now, self._told = now, now()
        self.left, self.total, self.done = defaultdict(int, epochs), total, 0
        self.spent: dict[str, float] = defaultdict(float)
        self.seen: dict[str, int] = defaultdict(int)
        self.jobs = [Job() for _ in range(jobs)]
        self.begun: set[str] = set()
        self.told_waiting = False
        self._display = Display(
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),
            TextColumn('{task.fields[remaining]}'),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
            # Results go to stdout: on a terminal above the moving lines, else where stdout leads.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=False,
        )
        self._lines = [
            self._display.add_task('starting', total=max(1, sum(epochs.values())), remaining='')
            for _ in self.jobs
        ]

    def __enter__(self) -> Progress:
        """Starts the display."""
        self._display.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes the moving lines."""
        self._display.stop()

    def start(
        self, dataset: str, label: str, seed: int, folder: Path | None = None, job: int = 0
    ) -> None:
        """Names the experiment that starts, and its folder."""
        name = _name(dataset, label, seed)
        began = self._now()
        self.jobs[job] = Job(dataset, name, 'starting', 'starting', started=began, folder=folder)
        self.begun.add(name)
        self._show()

    def report(self, stage: str, epoch: int, epochs: int, seconds: float, job: int = 0) -> None:
        """Takes note of finished epochs of a stage; `seconds` is the stage's time so far."""
        at = self.jobs[job]
        if stage != at.stage:
            # A resumed stage begins after its first epoch; what an earlier run did is not timed.
            at.stage, at.epoch, at.before = stage, 0, seconds
        else:
            self.seen[at.dataset] += epoch - at.epoch
            self.spent[at.dataset] += seconds - at.before
        self.left[at.dataset] -= epoch - at.epoch
        at.epoch, at.before = epoch, seconds
        at.text = f'{stage} {epoch}/{epochs}' if epochs else stage
        at.words = f'{stage}, epoch {epoch} of {epochs}' if epochs else stage
        self._show()

    def end(self, outcome: str, job: int = 0) -> None:
        """Prints the line that stays."""
        at = self.jobs[job]
        self._stays(f'{at.name}  {outcome}  ({clock(self._now() - at.started)})')
        self.jobs[job] = Job()

    def lost(self, job: int) -> Job:
        """Takes note that a process has died, and returns what ran in it, which is not done."""
        at, self.jobs[job] = self.jobs[job], Job()
        self.left[at.dataset] += at.epoch  # whoever runs it again tells them once more
        self._show()
        return at

    def elsewhere(self, dataset: str, label: str, seed: int, outcome: str, job: int = 0) -> None:
        """Prints what another process made of an experiment, unless it is one of the jobs."""
        name = _name(dataset, label, seed)
        if name not in self.begun:
            self.begun.add(name)
            self._stays(f'{name}  {outcome}')

    def fatal(self, dataset: str, label: str, seed: int, outcome: str) -> None:
        """Prints what became of an experiment that ends its processes; no job runs it any more."""
        name = _name(dataset, label, seed)
        self.begun.add(name)
        self._stays(f'{name}  {outcome}')

    def waiting(self, count: int, job: int = 0) -> None:
        """Says once that only experiments of other processes are left; jobs wait for each other."""
        self.jobs[job] = Job()  # what it has started is another process's
        if len(self.jobs) == 1 and not self.told_waiting:
            print(f'waiting for other processes, which run {count} of these', flush=True)
            self.told_waiting = True

    def remaining(self) -> float | None:
        """Returns the seconds left, by each data set's mean epoch; None before the first one."""
        if not any(self.seen.values()):
            return None
        means = {d: self.spent[d] / n for d, n in self.seen.items() if n}
        typical = sum(means.values()) / len(means)
        left = sum(max(n, 0) * means.get(d, typical) for d, n in self.left.items())
        return left / len(self.jobs)

    def _stays(self, line: str) -> None:
        self.done += 1
        # Errors name samples, whose ids may hold what a terminal would obey.
        print(f'[{self.done}/{self.total}] {printable(line)}', flush=True)

    def _show(self) -> None:
        left = self.remaining()
        if self._display.disable:
            self._tell(left)
        for line, at in zip(self._lines, self.jobs, strict=True):
            first = line == self._lines[0]
            self._display.update(
                line,
                description=escape(f'[{self.done + 1}/{self.total}] {at.name} | {at.text}'),
                completed=sum(self.seen.values()),
                visible=bool(at.name),
                remaining=f'{clock(left)} left' if left is not None and first else '',
            )

    def _tell(self, left: float | None) -> None:
        """Prints what runs unless that was done within the last minute."""
        if self._now() - self._told < EVERY:
            return
        self._told = self._now()
        parts = [f'{at.name}: {at.words}' for at in self.jobs if at.name]
        parts += [f'{self.done} of {self.total} done']
        parts += [f'{clock(left)} left'] if left is not None else []
        print(f'running   {" | ".join(parts)}', file=sys.stderr, flush=True)


def _name(dataset: str, label: str, seed: int) -> str:
    return f'{dataset}  {label}  seed {seed}'
