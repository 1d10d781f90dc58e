"""The terminal while experiments run: one line that moves, and one that stays per result."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Display


def clock(seconds: float) -> str:
    """Returns seconds as '1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


class Progress:
    """Shows the running experiment, its epoch and the time left; a context manager.

    On a terminal the line is redrawn in place; elsewhere only finished experiments are printed.

    Args:
        epochs: Epochs still to train of each data set, over all experiments.
        total: Number of experiments.
    """

    def __init__(self, epochs: dict[str, int], total: int) -> None:
        self.left, self.total, self.done = defaultdict(int, epochs), total, 0
        self.spent: dict[str, float] = defaultdict(float)
        self.seen: dict[str, int] = defaultdict(int)
        self.name, self.dataset = '', ''
        self.stage, self.epoch, self.before = '', 0, 0.0
        self.started = time.perf_counter()
        self._display = Display(
            TextColumn('{task.description}'),
            BarColumn(bar_width=20),
            TextColumn('{task.fields[remaining]}'),
            console=Console(file=sys.stderr),
            transient=True,
            disable=not sys.stderr.isatty(),
            # Results go to stdout: on a terminal above the moving line, else where stdout leads.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=False,
        )
        self._line = self._display.add_task('starting', total=max(1, sum(epochs.values())),
                                            remaining='')  # fmt: skip

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
        """Removes the moving line."""
        self._display.stop()

    def start(self, dataset: str, label: str, seed: int) -> None:
        """Names the experiment that starts."""
        self.dataset, self.name = dataset, f'{dataset}  {label}  seed {seed}'
        self.stage, self.started = '', time.perf_counter()
        self._show('starting')

    def report(self, stage: str, epoch: int, epochs: int, seconds: float) -> None:
        """Takes note of finished epochs of a stage; `seconds` is the stage's time so far."""
        if stage != self.stage:
            # A resumed stage begins after its first epoch; what an earlier run did is not timed.
            self.stage, self.epoch, self.before = stage, 0, seconds
        else:
            self.seen[self.dataset] += epoch - self.epoch
            self.spent[self.dataset] += seconds - self.before
        self.left[self.dataset] -= epoch - self.epoch
        self.epoch, self.before = epoch, seconds
        self._show(f'{stage} {epoch}/{epochs}' if epochs else stage)

    def end(self, outcome: str) -> None:
        """Prints the line that stays."""
        self.done += 1
        seconds = clock(time.perf_counter() - self.started)
        print(f'[{self.done}/{self.total}] {self.name}  {outcome}  ({seconds})', flush=True)

    def remaining(self) -> float | None:
        """Returns the seconds left, by each data set's mean epoch; None before the first one."""
        if not any(self.seen.values()):
            return None
        means = {d: self.spent[d] / n for d, n in self.seen.items() if n}
        typical = sum(means.values()) / len(means)
        return sum(max(n, 0) * means.get(d, typical) for d, n in self.left.items())

    def _show(self, text: str) -> None:
        left = self.remaining()
        self._display.update(
            self._line,
            description=escape(f'[{self.done + 1}/{self.total}] {self.name} | {text}'),
            completed=sum(self.seen.values()),
            remaining=f'{clock(left)} left' if left is not None else '',
        )
