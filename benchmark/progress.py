"""The terminal while experiments run: one line that moves, and one that stays per result."""

from __future__ import annotations

import sys
import time
from collections import defaultdict


def clock(seconds: float) -> str:
    """Returns seconds as '1:02:03' or '2:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


class Progress:
    """Shows the running experiment, its epoch and the time left.

    On a terminal the line is rewritten in place; elsewhere only finished experiments are printed.

    Args:
        epochs: Epochs still to train of each dataset, over all experiments.
        total: Number of experiments.
    """

    def __init__(self, epochs: dict[str, int], total: int) -> None:
        self.left, self.total, self.done = defaultdict(int, epochs), total, 0
        self.live = sys.stderr.isatty()
        self.spent: dict[str, float] = defaultdict(float)
        self.seen: dict[str, int] = defaultdict(int)
        self.name, self.dataset = '', ''
        self.stage, self.epoch, self.before = '', 0, 0.0
        self.started = time.perf_counter()

    def start(self, dataset: str, label: str, seed: int) -> None:
        """Names the experiment that starts."""
        self.dataset, self.name = dataset, f'{dataset}  {label}  seed {seed}'
        self.stage, self.started = '', time.perf_counter()
        self._show('starting')

    def report(self, stage: str, epoch: int, epochs: int, seconds: float) -> None:
        """Takes note of finished epochs of a stage; `seconds` is the stage's time so far."""
        if stage != self.stage:
            self.stage, self.epoch, self.before = stage, epoch, seconds
        else:
            self.seen[self.dataset] += epoch - self.epoch
            self.left[self.dataset] -= epoch - self.epoch
            self.spent[self.dataset] += seconds - self.before
            self.epoch, self.before = epoch, seconds
        self._show(f'{stage} {epoch}/{epochs}' if epochs else stage)

    def end(self, outcome: str) -> None:
        """Prints the line that stays."""
        self.done += 1
        seconds = clock(time.perf_counter() - self.started)
        self._clear()
        print(f'[{self.done}/{self.total}] {self.name}  {outcome}  ({seconds})', flush=True)

    def note(self, text: str) -> None:
        """Prints a line above the moving one."""
        self._clear()
        print(text, flush=True)

    def _remaining(self) -> float | None:
        """Seconds left, by the mean epoch of each dataset so far; None before the first epoch."""
        if not any(self.seen.values()):
            return None
        means = {d: self.spent[d] / n for d, n in self.seen.items() if n}
        typical = sum(means.values()) / len(means)
        return sum(max(n, 0) * means.get(d, typical) for d, n in self.left.items())

    def _show(self, text: str) -> None:
        if self.live:
            left = self._remaining()
            tail = f' | {clock(left)} left' if left is not None else ''
            line = f'[{self.done + 1}/{self.total}] {self.name} | {text}{tail}'
            print(f'\r\x1b[K{line}', end='', file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self.live:
            print('\r\x1b[K', end='', file=sys.stderr, flush=True)
