"""Training hooks: they seed every epoch, watch the losses, select an epoch and save checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from benchmark import tested
from benchmark.engine import state
from benchmark.engine.averaging import Averaging
from benchmark.engine.parallel import processes
from benchmark.errors import UserError
from benchmark.method import SubsetScore
from benchmark.missing import derive
from benchmark.records.checks import check_form
from benchmark.records.curves import Curve
from benchmark.records.metrics import higher_is_better


class TrainingDiverged(UserError):
    """A loss or a prediction became NaN or infinite; names the step and terms, or the samples."""


class EpochState(Hook):
    """Makes every epoch a function of (seed, epoch): generators, masks, the method's clock."""

    priority = 'VERY_HIGH'

    def __init__(self, seed: int, epochs: int) -> None:
        self.seed, self.epochs = seed, epochs

    def before_train_epoch(self, runner: Runner) -> None:
        """Reseeds torch, draws the masks and tells the method the epoch."""
        torch.manual_seed(derive(self.seed, 'train', runner.epoch))
        runner.train_dataloader.dataset.set_epoch(runner.epoch)
        runner.model.epoch, runner.model.epochs = runner.epoch, self.epochs


class LossWatch(Hook):
    """Logs the mean of each loss term per epoch and stops at the first NaN or infinity.

    The terms stay on the device until the epoch ends: no step waits for them.

    Attributes:
        means: Loss term -> its mean over the steps of the last epoch.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.means: dict[str, float] = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keeps the step's terms."""
        self.steps.append(outputs)

    def after_train_epoch(self, runner: Runner) -> None:
        """Checks and logs the epoch's terms.

        Raises:
            TrainingDiverged: A term is not finite.
        """
        names = list(self.steps[0])
        table = torch.stack([torch.stack([s[n].float() for n in names]) for s in self.steps]).cpu()
        first = runner.iter - len(self.steps)
        self.steps = []
        bad = (~table.isfinite()).nonzero()
        if len(bad):
            step = int(bad[0, 0])
            terms = [n for n, v in zip(names, table[step], strict=True) if not v.isfinite()]
            raise TrainingDiverged(
                f'loss is not finite at step {first + step} (epoch {runner.epoch}): '
                f'{", ".join(terms)}'
            )
        self.means = dict(zip(names, table.mean(0).tolist(), strict=True))
        told = ', '.join(f'{n} {v:.4f}' for n, v in self.means.items())
        runner.logger.info(f'epoch {runner.epoch}: {told}')


class Selection(Hook):
    """Hands validation scores to the method and keeps the epoch that the protocol selects.

    Args:
        rule: 'last', 'mean', 'worst' or 'full'.
        metric: The task's metric.
        full: Id of the largest subset that the network is for.
        folder: Where the best weights are kept.
        subsets: Field of the protocol; the mean of a sample is the estimate for all subsets.
    """

    def __init__(self, rule: str, metric: str, full: str, folder: Path, subsets: str = '') -> None:
        self.subsets = subsets
        self.rule, self.metric, self.full = rule, metric, full
        self.folder, self.best = folder, folder / state.BEST
        self.state: dict[str, Any] = {'epoch': -1, 'value': -math.inf, 'scores': {}}

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Takes the scores of the epoch that just ended."""
        scores: dict[str, SubsetScore] = runner.val_loop.evaluator.scores
        # The epoch counter was raised before validation.
        runner.model.on_validation(scores)
        value = math.nan if self.rule == 'last' else self._value(scores)
        runner.logger.info(f'epoch {runner.epoch - 1}: validation {self.metric} {_brief(metrics)}')
        if self.rule == 'last' or value > self.state['value']:
            plain = {s: {'metrics': v.metrics, 'n': v.n} for s, v in scores.items()}
            self.state = {'epoch': runner.epoch - 1, 'value': value, 'scores': plain}
            if self.rule != 'last' and processes.leads():
                newest = self.folder / state.NEWEST
                self.state['best'] = state.save(runner.model.state_dict(), newest)

    def _value(self, scores: dict[str, SubsetScore]) -> float:
        """Returns what the rule maximises.

        Raises:
            UserError: The validation split does not give what the rule needs.
        """
        sign = 1 if higher_is_better(self.metric) else -1
        needed = [self.full] if self.rule == 'full' else list(scores)
        values = [
            sign * scores[s].metrics[self.metric] if s in scores else math.nan for s in needed
        ]
        lacking = [s for s, v in zip(needed, values, strict=True) if math.isnan(v)]
        if lacking or not values:
            raise UserError(
                f'selection={self.rule}: expected {self.metric} on the validation split for '
                f'{", ".join(lacking) or "some subset"}, found samples or classes missing there'
            )
        if self.rule == 'worst':
            return min(values)
        found = dict(zip(needed, values, strict=True))
        return tested.mean(found, self.full.count('+') + 1, self.subsets)


def _brief(metrics: dict | None) -> str:
    return ', '.join(f'{k} {v:.4f}' for k, v in (metrics or {}).items())


SHARE = 0.02
"""The part of the time that saving after epochs may take. On few samples an epoch lasts a few
hundredths of a second, and saving after every one took more time than the training itself."""
LONGEST = 600.0
"""Seconds after which a training is saved whatever that takes, as after a disk has stalled once."""


class Checkpoint(Hook):
    """Saves the run after an epoch, so that a killed one goes on as if nothing had happened.

    It is saved after the first epoch and the last one, and after others when so much time has
    passed since that a save as long as the last one takes at most `SHARE` of it, or `LONGEST`. The
    epochs after the last save are trained again, with the same numbers.

    Args:
        file: The resume file; at every moment it is the old one or the whole new one.
        identity: Identity of the network, which the file holds.
        selection: Its state travels along.
        averaging: Likewise.
        curves: What the training has recorded so far; it travels along.
        progress: Called with (finished epochs, seconds of training so far).
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        file: Path,
        identity: str,
        selection: Selection,
        averaging: Averaging,
        curves: Curve,
        progress: Callable[[int, float], None],
    ) -> None:
        self.file, self.identity = file, identity
        self.selection, self.progress = selection, progress
        self.averaging, self.curves = averaging, curves
        self.seconds = 0.0
        self._since: float
        self._saved, self._took = 0.0, 0.0

    def before_train(self, runner: Runner) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()
        self.progress(runner.epoch, self.seconds)

    def before_train_epoch(self, runner: Runner) -> None:
        """Saves the state after the previous epoch and its validation, if it is time to."""
        if not runner.epoch or not processes.leads():
            return
        self._tick()
        if self._since - self._saved >= min(self._took / SHARE, LONGEST):
            self._save(runner)
        self.progress(runner.epoch, self.seconds)

    def after_train(self, runner: Runner) -> None:
        """Saves the final state."""
        if processes.leads():
            self._tick()
            self._save(runner)
            self.progress(runner.epoch, self.seconds)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now

    def _save(self, runner: Runner) -> None:
        content = {
            'identity': self.identity,
            'epoch': runner.epoch,
            'iter': runner.iter,
            'state_dict': runner.model.state_dict(),
            'optimizer': runner.optim_wrapper.state_dict(),
            'schedulers': [_plain(s.state_dict()) for s in runner.param_schedulers],
            'seconds': self.seconds,
            'selection': json.dumps(self.selection.state),
            'curves': json.dumps(self.curves),
        }
        if self.averaging.decay:
            content['average'] = self.averaging.average
        state.save(content, self.file)
        state.promote(self.selection.folder)
        self._saved = time.perf_counter()
        self._took = self._saved - self._since

    def restore(self, runner: Runner, content: Mapping[str, Any]) -> None:
        """Puts a run where `_save` left it.

        Args:
            runner: The run, ready to train.
            content: What was saved.
        """
        runner.model.load_state_dict(content['state_dict'])
        runner.optim_wrapper.load_state_dict(content['optimizer'])
        for scheduler, saved in zip(runner.param_schedulers, content['schedulers'], strict=True):
            scheduler.load_state_dict(saved)
        runner.train_loop._epoch, runner.train_loop._iter = content['epoch'], content['iter']
        self.seconds = content['seconds']
        self.selection.state = json.loads(content['selection'])
        if 'curves' in content:  # older versions kept none
            check_form(found := json.loads(content['curves']), Curve)
            self.curves.update(found)
        if self.averaging.decay:
            own = self.averaging.weights(runner.model)
            kept = zip(own, content['average'], strict=True)
            self.averaging.average = [mean.to(w).reshape(w.shape) for w, mean in kept]
            self.averaging.steps = content['iter']


def _plain(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scheduler's state without its functions, which would be unpickled as code."""
    return {key: value for key, value in scheduler.items() if not callable(value)}
