"""When the experiments of a command will run, several at a time, by how long each of them takes."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Expected(NamedTuple):
    """How long an experiment will take, beside those that were asked about before.

    Attributes:
        seconds: From its beginning to its end.
        trains: Folder of each network that it trains -> seconds from its beginning until then.
        needs: Folders of networks, such as a teacher, that an experiment before it trains.
    """

    seconds: float
    trains: Mapping[Path, float]
    needs: frozenset[Path] = frozenset()


class Timetable:
    """What the jobs of a command will do: one that is free begins the first that can begin.

    A training is not divided between jobs. An experiment cannot begin while a network that it needs
    is being trained, or trials of its search are. Jobs take others meanwhile, as in a run
    (`Worker.work`), where each job goes through the experiments at its own pace.

    Args:
        jobs: Number of jobs.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = _Jobs(jobs, [], {}, {})
        self._later: list[_Entry] = []

    @property
    def end(self) -> float:
        """When everything will have ended, in seconds from the start."""
        jobs, later = self._jobs.copy(), self._later
        while later:
            later = jobs.go_on(later)
        return max(jobs.free, default=0.0)

    def copy(self) -> Timetable:
        """Returns one to which experiments can be added that do not stay in this one."""
        other = Timetable(0)
        other._jobs, other._later = self._jobs.copy(), [*self._later]
        return other

    def add(self, item: object, expected: Expected, trial: bool = False) -> None:
        """Adds an experiment.

        Args:
            item: The item of the grid that it is a part of.
            expected: How long it takes, and what it trains and needs.
            trial: Whether it is a trial of a search.
        """
        self._later.append(_Entry(expected, id(item), trial))
        while self._later:
            begins = self._jobs.begins(self._later)
            at = next((n for n, when in enumerate(begins) if when <= self._jobs.first), None)
            if at is None:
                break
            self._jobs.do(self._later.pop(at), self._jobs.first)


class _Entry(NamedTuple):
    """An experiment, the identity of its item, and whether it is a trial of a search."""

    expected: Expected
    search: int
    trial: bool


@dataclass
class _Jobs:
    """What some jobs have done.

    Attributes:
        most: Number of jobs.
        free: When those that have done something are free, a heap.
        trained: Folder of a network -> when it is trained.
        tried: Identity of a search -> when its last trial ends.
    """

    most: int
    free: list[float]
    trained: dict[Path, float]
    tried: dict[int, float]

    def copy(self) -> _Jobs:
        """Returns jobs that have done the same."""
        return _Jobs(self.most, [*self.free], {**self.trained}, {**self.tried})

    @property
    def first(self) -> float:
        """When the next job is free."""
        return self.free[0] if len(self.free) == self.most else 0.0

    def begins(self, later: Sequence[_Entry]) -> list[float]:
        """Returns from when on some experiments can begin; infinity while others come before."""
        training = {folder for entry in later for folder in entry.expected.trains}
        trying = {entry.search for entry in later if entry.trial}

        def begin(entry: _Entry) -> float:
            seed = not entry.trial
            if training & entry.expected.needs or (seed and entry.search in trying):
                return math.inf
            known = [self.trained.get(folder, 0.0) for folder in entry.expected.needs]
            return max([seed * self.tried.get(entry.search, 0.0), *known])

        return [begin(entry) for entry in later]

    def go_on(self, later: Sequence[_Entry]) -> list[_Entry]:
        """Does what waits for no other of some experiments, and returns the rest."""
        waiting = [(when, n) for n, when in enumerate(self.begins(later)) if when < math.inf]
        done, ready = {n for _, n in waiting}, list[int]()
        heapq.heapify(waiting)
        while waiting or ready:
            while waiting and waiting[0][0] <= self.first:
                heapq.heappush(ready, heapq.heappop(waiting)[1])
            if ready:
                self.do(later[heapq.heappop(ready)], self.first)
            else:
                when, n = heapq.heappop(waiting)
                self.do(later[n], when)
        return [entry for n, entry in enumerate(later) if n not in done]

    def do(self, entry: _Entry, when: float) -> None:
        """Has the next job that is free do an experiment, which begins at a time."""
        if len(self.free) == self.most:
            heapq.heappop(self.free)
        end = when + entry.expected.seconds
        heapq.heappush(self.free, end)
        self.trained |= {folder: when + s for folder, s in entry.expected.trains.items()}
        if entry.trial:
            self.tried[entry.search] = max(end, self.tried.get(entry.search, 0.0))
