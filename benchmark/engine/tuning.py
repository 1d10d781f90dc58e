"""Equal tuning: every method tries the same number of settings before its seeds run.

Trial 0 is the setting that applies without tuning; the others are drawn from the method's search
space (`benchmark.search`). All are trained under the protocol and compared by the mean over
subsets of the validation metric at the epoch that the protocol selects; the test split is not
opened. Trials lie at `<results>/tuning/<dataset>/<spec>/<protocol id>/trial<k>/`, without their
weights, and belong to every search of so many trials or more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.dataset import Dataset
from benchmark.engine import state
from benchmark.engine.contents import SEARCH
from benchmark.engine.experiment import Experiment, experiment, search_space
from benchmark.engine.places import place
from benchmark.engine.protocol import Protocol
from benchmark.engine.trials import result_of
from benchmark.engine.wanted import FEWEST
from benchmark.errors import UserError
from benchmark.missing import derive
from benchmark.options import Spec, spell, typed
from benchmark.records.metrics import higher_is_better
from benchmark.registry import METHODS, lookup
from benchmark.search import Distribution, draw

SEED = derive(0, 'tuning')
"""Seed of every trial. No run is given it: the runs of a tuned row start from weights, masks and
orders that had no influence on the choice, and a search is the same whichever seeds follow it."""

Results = Sequence[dict[str, Any] | None]
"""What became of each trial of a search, None where it has not ended."""


@dataclass(frozen=True)
class Search:
    """The trials of one method on one data set, and the seeds that run with the best of them.

    Attributes:
        spec: The method with the options that stay as they were given.
        data: The data set.
        protocol: The training and selection rules.
        seeds: Seeds of the experiments that follow.
        results: Results folder.
        trials: Number N of trials, 2 or more.
    """

    spec: Spec
    data: Dataset
    protocol: Protocol
    seeds: tuple[int, ...]
    results: Path
    trials: int

    @property
    def label(self) -> str:
        """Name of the row in tables."""
        return f'{self.spec} (tuned {self.trials})'

    @functools.cached_property
    def untuned(self) -> Experiment:
        """The experiment of trial 0 as it would run without a search."""
        return experiment(self.spec, self.data, self.protocol, SEED, self.results)

    @functools.cached_property
    def space(self) -> dict[str, Distribution]:
        """What each option is drawn from, less the options that were given."""
        return search_space(self.spec, self.untuned.options)

    def tried(self, trial: Experiment) -> dict[str, Any]:
        """Returns the options that the search chooses, with a trial's values."""
        return {key: trial.options[key] for key in self.space}

    @functools.cached_property
    def experiments(self) -> list[Experiment]:
        """The trials in order, as experiments that share one teacher and one pre-training."""
        shared: dict[str, Any] = {}
        for kind, e in self.untuned.earlier.items():  # a teacher starts from the encoders, too
            shared[kind] = replace(e, folder=self._place(e.label) / kind, **shared)
        return [self._trial(number, shared) for number in range(self.trials)]

    def _trial(self, number: int, shared: dict[str, Any]) -> Experiment:
        drawn = {k: draw(self.spec.name, k, number, d) for k, d in self.space.items() if number}
        trial = replace(
            self.untuned,
            options={**self.untuned.options, **drawn},
            folder=self._place(str(self.spec)) / f'trial{number}',
            source='tuned' if drawn else self.untuned.source,
            tunable=tuple(self.space),
            trial=True,
            **shared,
        )
        values = ', '.join(f'{key}={spell(value)}' for key, value in self.tried(trial).items())
        return replace(trial, label=f'{self.spec} trial {number} ({values})')

    def _place(self, row: str) -> Path:
        return place(self.results, 'tuning', self.data, row, self.untuned.protocol_id)

    def read(self) -> Results:
        """Reads what became of each trial."""
        return [result_of(trial) for trial in self.experiments]

    def best(self, results: Results) -> int | None:
        """Returns the number of the best trial, the first of equals, None if none has a score."""
        if None in results:
            return None
        sign = 1 if higher_is_better(self.data.task.metric) else -1
        scores = [sign * found['score'] if found and 'score' in found else -math.inf
                  for found in results]  # fmt: skip
        first = scores.index(max(scores))
        return None if scores[first] == -math.inf else first

    def tuned(self, results: Results) -> list[Experiment]:
        """Returns the experiments of the seeds with the options of the best trial.

        Before the search has ended the untuned options stand in their place: such experiments
        have their labels and folders already, but cannot be run.

        Args:
            results: What `read` returned.
        """
        best = self.best(results)
        chosen = self.untuned if best is None else self.experiments[best]
        row = f'{self.spec}-tuned{self.trials}'
        folder = place(self.results, 'runs', self.data, row, self.untuned.protocol_id)
        return [
            replace(
                experiment(self.spec, self.data, self.protocol, seed, self.results),
                options=chosen.options,
                folder=folder / f'seed{seed}',
                label=self.label,
                source='tuned',
                tunable=tuple(self.space),
                search=self.summary(results),
            )
            for seed in self.seeds
        ]

    def summary(self, results: Results) -> dict[str, Any]:
        """Returns the search as the records of its seeds hold it."""
        known = [found or {} for found in results]
        return {
            'trials': self.trials,
            'seed': SEED,
            'space': {key: str(distribution) for key, distribution in self.space.items()},
            'tried': [
                {'options': self.tried(trial), 'score': found.get('score')}
                for trial, found in zip(self.experiments, known, strict=True)
            ],
            'chosen': self.best(results),
            'seconds': sum(found.get('seconds', 0.0) for found in known)
            + max(found.get('teacher_seconds', 0.0) for found in known),
        }

    def why_not(self, results: Results) -> str | None:
        """Returns why the seeds cannot run after these results, None if they can."""
        if None in results:
            return f'{self.label}: expected {self.trials} trials to have run before it'
        if self.best(results) is None:
            first = next(found['error'] for found in results if found)
            return f'all {self.trials} trials failed, the first one: {first}'
        return None


def search(
    spec: Spec,
    data: Dataset,
    protocol: Protocol,
    seeds: Sequence[int],
    results: Path,
    trials: int,
) -> Search | None:
    """Returns the search over a method, None if nothing is left to choose beside what was given.

    Raises:
        UserError: An option does not exist or does not fit, or there are too few trials.
    """
    if trials < FEWEST:
        raise UserError(
            f'--tune: expected {FEWEST} trials or more, the first untuned, found {trials}'
        )
    given = typed(lookup(METHODS, spec.name), spec.name, dict(spec.given))
    fixed = Spec(spec.name, tuple(sorted(given.items())))
    found = Search(fixed, data, protocol, tuple(seeds), results, trials)
    return found if found.space else None


def announce(search: Search) -> None:
    """Writes how many trials there will be, for who looks at the folder meanwhile.

    Raises:
        UserError: The folder cannot be written.
    """
    file = search.experiments[0].folder.parent / SEARCH
    identity = search.untuned.identity
    told = {'identity': identity, 'label': str(search.spec), 'trials': search.trials}
    if state.read_json(file, identity) != told:
        state.write_json(file, told)
