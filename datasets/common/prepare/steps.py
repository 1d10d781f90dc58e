"""Progress of long file work, on stderr: a moving bar on a terminal, a line per tenth elsewhere."""

from __future__ import annotations

import sys
import threading
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Counts steps and shows how many are done and how long the rest takes.

    Used as `with Steps(1449, 'frames') as step: ... step()`; may be called from several threads.

    Args:
        total: Number of steps.
        what: What is counted, in the plural.
    """

    def __init__(self, total: int, what: str = 'files') -> None:
        self.total, self.what, self.done = total, what, 0
        self.lock = threading.Lock()
        self.bar: Progress | None = None
        self.started = time.perf_counter()

    def __enter__(self) -> Steps:
        self.started = time.perf_counter()
        if sys.stderr.isatty():
            columns = [TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn()]
            left = TimeRemainingColumn(elapsed_when_finished=True)
            self.bar = Progress(*columns, left, console=Console(stderr=True))
            self.bar.add_task(self.what, total=self.total)
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, count: int = 1) -> None:
        """Takes note of `count` finished steps."""
        with self.lock:
            before, self.done = self.done, self.done + count
            if self.bar is not None:
                self.bar.update(self.bar.task_ids[0], advance=count)
            elif self.total and 10 * before // self.total < 10 * self.done // self.total:
                print(self._line(), file=sys.stderr, flush=True)

    def _line(self) -> str:
        spent = time.perf_counter() - self.started
        left = spent / self.done * (self.total - self.done)
        return f'{self.what} {self.done}/{self.total}, about {left:.0f} s left'
