"""How the distribution of the training masks changes from epoch to epoch: `mask_schedule`.

The sampler of the protocol gives each subset s the probability p(s). Without a schedule every epoch
draws from it ('constant'). Otherwise, in epoch e of E, counted from 0:

'curriculum:S': a sample draws from p with probability min(1, e / (S E)), and keeps all that it has
otherwise. The first epoch is complete; after the share S of the epochs all draw from p. The rate at
which a modality is withheld grows linearly up to that of p.

'learned:T': the probability of s is proportional to p(s) exp(d(s) / T). The deficit d(s) is by how
much the last validation scored s worse than the best subset, as a fraction; a subset that was not
measured has the mean of the others. Before the first validation it is p. Subsets that score worst
are then trained most. With a large T nothing changes.

Both are this project's own and come from no paper. Scores are those of the validation split alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmark.errors import UserError, unknown
from benchmark.method import Task
from benchmark.missing import TABLED, Sampler
from benchmark.records.curves import Curve
from benchmark.records.metrics import higher_is_better
from benchmark.subsets import subset_ids

CONSTANT, CURRICULUM, LEARNED = 'constant', 'curriculum', 'learned'
DEFAULTS = {CURRICULUM: 0.5, LEARNED: 0.1}
"""The share S and the temperature T where none is given."""


def parse(spec: str) -> tuple[str, float]:
    """Returns the kind of a schedule and its number.

    Raises:
        UserError: There is no such schedule, or the number is out of range.
    """
    kind, colon, given = spec.partition(':')
    if kind == CONSTANT and not colon:
        return kind, 0.0
    if kind not in DEFAULTS:
        raise unknown('mask_schedule', spec, (CONSTANT, f'{CURRICULUM}:S', f'{LEARNED}:T'))
    try:
        value = float(given) if colon else DEFAULTS[kind]
    except ValueError:
        value = math.nan
    if not 0 < value <= (1 if kind == CURRICULUM else math.inf) or value == math.inf:
        expected = 'above 0 and at most 1' if kind == CURRICULUM else 'above 0'
        raise UserError(f'mask_schedule={kind}: expected a number {expected}, found {given!r}')
    return kind, value


def canonical(spec: str) -> str:
    """Returns the one spelling of a schedule that protocols record."""
    kind, value = parse(spec)
    return kind if kind == CONSTANT else f'{kind}:{value:.10g}'


def check(spec: str, sampler: Sampler, task: Task) -> None:
    """Checks that a schedule fits the sampler and the task.

    Raises:
        UserError: It learns from a score of every subset, and there are too many, or scores are no
            fractions; or every schedule of this kind leaves the masks of the sampler as they are.
    """
    kind, names = parse(spec)[0], sampler.names
    if kind == LEARNED and len(names) > TABLED:
        raise UserError(
            f'mask_schedule={LEARNED}: expected at most {TABLED} modalities, whose subsets are all '
            f'validated, found {len(names)}'
        )
    if kind == LEARNED and task.kind == 'regression':
        raise UserError(
            f'mask_schedule={spec} on {task.dataset}: expected a task whose scores are fractions, '
            'found regression'
        )
    # A curriculum begins with complete samples, so that it changes the masks of one smaller subset.
    alone = sampler.alone
    if kind == LEARNED and alone or kind == CURRICULUM and alone == '+'.join(names):
        raise UserError(
            f'mask_schedule={spec}: expected a sampler of several subsets, between which it '
            f'chooses, found sampler={sampler.spec}, which draws {alone} alone'
        )


class MaskSchedule:
    """Draws the masks of an epoch from a sampler and a schedule.

    Args:
        spec: The schedule.
        epochs: Number of epochs of the training.

    Attributes:
        kind: What kind of schedule it is.
        tilt: (2^M-1,) d(s) / T of each subset; None before the first validation.
    """

    def __init__(self, spec: str, epochs: int) -> None:
        self.kind, self.value = parse(spec)
        self.epochs = epochs
        self.tilt: np.ndarray | None = None

    def share(self, epoch: int) -> float:
        """Returns which share of the samples draws from the sampler in an epoch."""
        return min(1.0, epoch / (self.value * self.epochs)) if self.kind == CURRICULUM else 1.0

    def draw(
        self, sampler: Sampler, available: np.ndarray, rng: np.random.Generator, epoch: int
    ) -> np.ndarray:
        """Returns the masks of an epoch, (N, M) bool; arguments are those of `Sampler.draw`.

        A sample for which the sampler has no subset has none here either, in no epoch.
        """
        drawn = sampler.draw(available, rng, self.tilt)
        share = self.share(epoch)
        if share == 1:
            return drawn
        kept = (rng.random(len(drawn)) >= share) & drawn.any(1)
        return np.where(kept[:, None], available, drawn)

    def learn(self, curve: Curve, metric: str, names: Sequence[str]) -> None:
        """Takes the scores of the last validation; does nothing in other schedules.

        They come from the curves, which the checkpoint holds, so that a training that goes on draws
        what it would have drawn.

        Args:
            curve: The curves so far.
            metric: The data set's metric.
            names: The modalities.
        """
        if self.kind == LEARNED:
            last = {subset: values[-1] for subset, values in curve['validation'].items() if values}
            self.tilt = tilt_of(last, metric, names, self.value)


def tilt_of(
    scores: Mapping[str, float | None], metric: str, names: Sequence[str], temperature: float
) -> np.ndarray | None:
    """Returns d(s) / T of each subset of `subset_masks`; None if no subset has a score.

    Args:
        scores: Subset -> score as a fraction; None where it is undefined.
        metric: What they are.
        names: The modalities.
        temperature: T.
    """
    sign = 1 if higher_is_better(metric) else -1
    found = np.array([scores.get(s) for s in subset_ids(names)], dtype=float) * sign
    known = np.isfinite(found)
    if not known.any():
        return None
    deficit = found[known].max() - found
    deficit[~known] = deficit[known].mean()
    return deficit / temperature


def probabilities(sampler: Sampler, tilt: np.ndarray | None) -> np.ndarray:
    """Returns the probability of each subset for a sample that has all modalities."""
    plain = sampler.probabilities()
    if tilt is None:
        return plain
    weights = plain * np.exp(tilt - tilt.max())
    return weights / weights.sum()


class LearnedMasks(Hook):
    """Hands the scores of each validation to the schedule of the training masks.

    Args:
        curve: The curves, which a hook of normal priority fills; the probabilities of an epoch are
            kept there.
        metric: The data set's metric.
    """

    # Before the masks of the epoch are drawn.
    priority = 'HIGHEST'

    def __init__(self, curve: Curve, metric: str) -> None:
        self.curve, self.metric = curve, metric

    def before_train_epoch(self, runner: Runner) -> None:
        """Sets the probabilities of the epoch."""
        samples = runner.train_dataloader.dataset
        if samples.schedule is not None:
            samples.schedule.learn(self.curve, self.metric, samples.task.names)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keeps the probabilities of the epoch, of subsets that can be drawn at all."""
        samples = runner.train_dataloader.dataset
        if samples.schedule is None or samples.schedule.kind != LEARNED:
            return
        kept = self.curve.setdefault('mask_rates', {})
        found = probabilities(samples.sampler, samples.schedule.tilt)
        for subset, p in zip(subset_ids(samples.task.names), found.tolist(), strict=True):
            kept.setdefault(subset, []).append(float(f'{p:.6g}'))
