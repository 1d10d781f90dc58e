"""The progress of long work on files, shown on stderr.

On a terminal a progress bar of the package `rich` moves. Elsewhere, as in the log of a batch job, a
line is printed after each tenth of the work, which `rich` does not offer.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Steps:
    """Counts finished steps and shows how many are done and how long the others take.

    It is used as `with Steps(1449, 'frames') as step: ... step()`. Several threads may call `step`.

    Args:
        total: Number of steps.
        what: What is counted, in the plural.
    """

    def __init__(self, total: int, what: str = 'files') -> None:
        self.lock = threading.Lock()
        self.bar = Progress(
            TextColumn('{task.description}'),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self.bar.add_task(what, total=total)

    def __enter__(self) -> Steps:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def __call__(self, count: int = 1) -> None:
        """Adds `count` finished steps."""
        # Each thread must compare with the count that it has changed itself.
        with self.lock:
            (task,) = self.bar.tasks
            before = task.completed
            self.bar.advance(task.id, count)
            done, total = task.completed, task.total or 0
            if self.bar.disable and total and 10 * before // total < 10 * done // total:
                left = (task.elapsed or 0) * (total - done) / done
                line = f'{task.description} {done:.0f}/{total:.0f}, about {left:.0f} s left'
                print(line, file=sys.stderr, flush=True)
