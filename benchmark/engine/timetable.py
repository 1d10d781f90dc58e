"""When the experiments of a command will run, several at a time, by how long each of them takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    """What the jobs of a command will do, each experiment being begun by the first that is free.

    A training is not divided between jobs. An experiment begins once the networks that it needs
    are trained, and jobs take others meanwhile; the seeds of a search begin after its trials.

    Args:
        jobs: Number of jobs.

    Attributes:
        end: When everything will have ended, in seconds from the start.
    """

    def __init__(self, jobs: int) -> None:
        self.end = 0.0
        self._free = [(0.0, math.inf)] * jobs
        self._trained: dict[Path, float] = {}
        self._tried: dict[int, float] = {}

    def add(self, item: object, expected: Expected, trial: bool = False) -> None:
        """Adds an experiment.

        Args:
            item: The item of the grid that it is a part of.
            expected: How long it takes, and what it trains and needs.
            trial: Whether it is a trial of a search.
        """
        tried = 0.0 if trial else self._tried.get(id(item), 0.0)
        after = max([tried, *(self._trained.get(folder, 0.0) for folder in expected.needs)])
        begin = self._place(after, expected.seconds)
        end = begin + expected.seconds
        self.end = max(self.end, end)
        self._trained |= {folder: begin + s for folder, s in expected.trains.items()}
        if trial:
            self._tried[id(item)] = max(end, self._tried.get(id(item), 0.0))

    def _place(self, after: float, seconds: float) -> float:
        """Takes some time of the job that can begin first, and returns when it begins."""
        fits = [(max(a, after), a, b) for a, b in self._free if max(a, after) + seconds <= b]
        begin, a, b = min(fits)
        self._free.remove((a, b))
        left = [(a, begin), (begin + seconds, b)]
        self._free += [(a, b) for a, b in left if a < b]
        return begin
