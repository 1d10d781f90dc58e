"""One training through mmengine's Runner: resumable, repeatable, silent on the terminal."""

from __future__ import annotations

import itertools
import logging
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from benchmark.evaluation import (
    HIGHER_IS_BETTER,
    SubsetEvaluator,
    SubsetTestLoop,
    SubsetValLoop,
)
from benchmark.method import Method, SubsetScore
from benchmark.missing import derive
from benchmark.protocol import Protocol

_COUNTER = itertools.count()
_NO_DEFAULTS = dict.fromkeys(('runtime_info', 'timer', 'logger', 'checkpoint'))


class TrainingDiverged(Exception):
    """A loss became NaN or infinite; names the step and the terms."""


class SilentRunner(Runner):
    """mmengine's Runner with its log in one file and nothing on the terminal.

    Args:
        device: Where to train, 'cpu' or 'cuda'.
        log_file: mmengine's log goes here.
        kwargs: The Runner's arguments.
    """

    def __init__(self, device: str, log_file: Path, **kwargs: Any) -> None:
        self._device, self._log_file = device, log_file
        super().__init__(
            visualizer={'type': 'Visualizer', 'vis_backends': []},
            experiment_name=f'run{next(_COUNTER)}',
            env_cfg={},
            default_scope='mmseg',
            **kwargs,
        )
        shutil.rmtree(self._log_dir, ignore_errors=True)

    def build_logger(self, log_level: int | str = 'INFO', **kwargs: Any) -> logging.Logger:
        """Builds the logger of this run, with its file as the only handler."""
        logger = super().build_logger(log_level, log_file=str(self._log_file), **kwargs)
        logger.handlers = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
        return logger

    def wrap_model(self, model_wrapper_cfg: dict | None, model: Method) -> Method:
        """Moves the model to the chosen device."""
        return model.to(self._device)

    def close(self) -> None:
        """Closes the log file and takes it from the logger, which mmengine keeps as current."""
        for handler in self.logger.handlers:
            handler.close()
        self.logger.handlers.clear()

    def dump_config(self) -> None:
        """Writes nothing: the record holds the configuration."""

    def _log_env(self, env_cfg: dict) -> None:
        """Skips mmengine's second of probing compilers; the record holds the environment."""

    def _init_model_weights(self) -> None:
        """Leaves the weights alone: they were drawn from their own generator."""


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
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

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
        means = ', '.join(f'{n} {v:.4f}' for n, v in zip(names, table.mean(0), strict=True))
        runner.logger.info(f'epoch {runner.epoch}: {means}')


class Selection(Hook):
    """Hands validation scores to the method and keeps the epoch that the protocol selects.

    Args:
        rule: 'last', 'mean', 'worst' or 'full'.
        metric: The task's metric.
        folder: Where the best weights are kept.
    """

    def __init__(self, rule: str, metric: str, folder: Path) -> None:
        self.rule, self.metric, self.best = rule, metric, folder / 'best.pth'
        self.state: dict[str, Any] = {'epoch': -1, 'value': -math.inf, 'scores': {}}

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Takes the scores of the epoch that just ended."""
        scores: dict[str, SubsetScore] = runner.val_loop.evaluator.scores
        # The epoch counter was raised before validation.
        runner.model.on_validation(scores)
        value = self._value(scores)
        runner.logger.info(f'epoch {runner.epoch - 1}: validation {self.metric} {_brief(metrics)}')
        if self.rule == 'last' or value > self.state['value']:
            plain = {s: {'metrics': v.metrics, 'n': v.n} for s, v in scores.items()}
            self.state = {'epoch': runner.epoch - 1, 'value': value, 'scores': plain}
            if self.rule != 'last':
                save_atomically(runner.model.state_dict(), self.best)

    def _value(self, scores: dict[str, SubsetScore]) -> float:
        sign = 1 if HIGHER_IS_BETTER[self.metric] else -1
        values = [sign * s.metrics[self.metric] for s in scores.values()]
        if self.rule == 'mean':
            return sum(values) / len(values)
        # The complete set is the last of all subsets.
        return min(values) if self.rule == 'worst' else values[-1]


def _brief(metrics: dict | None) -> str:
    return ', '.join(f'{k} {v:.4f}' for k, v in (metrics or {}).items())


class Checkpoint(Hook):
    """Saves the run after every epoch, so that a killed one goes on as if nothing had happened.

    Written to a temporary name, synced and renamed: at every moment one whole file exists.

    Args:
        file: The resume file.
        identity: Identity of the experiment, checked on resume.
        selection: Its state travels along.
        progress: Called with (finished epochs, seconds of training so far).
    """

    priority = 'VERY_LOW'

    def __init__(
        self,
        file: Path,
        identity: str,
        selection: Selection,
        progress: Callable[[int, float], None],
    ) -> None:
        self.file, self.identity = file, identity
        self.selection, self.progress = selection, progress
        self.seconds = 0.0
        self._since = time.perf_counter()

    def before_train(self, runner: Runner) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()
        self.progress(runner.epoch, self.seconds)

    def before_train_epoch(self, runner: Runner) -> None:
        """Saves the state after the previous epoch and its validation."""
        if runner.epoch:
            self._save(runner)

    def after_train(self, runner: Runner) -> None:
        """Saves the final state."""
        self._save(runner)

    def _save(self, runner: Runner) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        temporary = self.file.with_suffix('.tmp')
        runner.save_checkpoint(
            str(temporary.parent), temporary.name, meta={'epoch': runner.epoch, 'iter': runner.iter}
        )
        _replace(temporary, self.file)
        self.progress(runner.epoch, self.seconds)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds what mmengine does not know of."""
        checkpoint['benchmark'] = {
            'identity': self.identity,
            'seconds': self.seconds,
            'selection': self.selection.state,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Takes it back."""
        self.seconds = checkpoint['benchmark']['seconds']
        self.selection.state = checkpoint['benchmark']['selection']


def save_atomically(state: Any, file: Path) -> None:
    """Saves with torch under a temporary name, syncs, renames."""
    temporary = file.with_suffix('.tmp')
    torch.save(state, temporary)
    _replace(temporary, file)


def _replace(temporary: Path, file: Path) -> None:
    with open(temporary, 'rb') as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, file)


def resumable(file: Path, identity: str) -> bool:
    """Returns whether `file` is a whole checkpoint of this very experiment."""
    try:
        found = torch.load(file, map_location='cpu', weights_only=False)
        return bool(found['benchmark']['identity'] == identity)
    except Exception:  # a torn or foreign file: whatever it raises, the run starts anew
        return False


def optim_wrapper(protocol: Protocol) -> dict[str, Any]:
    """Returns mmengine's optimiser config, with mixed precision where the protocol says so."""
    optimizer: dict[str, Any] = {
        'type': protocol.optimizer,
        'lr': protocol.lr,
        'weight_decay': protocol.weight_decay,
    }
    if protocol.optimizer == 'SGD':
        optimizer.update(momentum=protocol.momentum, nesterov=protocol.momentum > 0)
    if protocol.precision == 'float32':
        return {'type': 'OptimWrapper', 'optimizer': optimizer}
    # bfloat16 has float32's range and needs no loss scaling, whose check would stall each step.
    scale: Any = 'dynamic' if protocol.precision == 'float16' else {'enabled': False}
    return {
        'type': 'AmpOptimWrapper',
        'optimizer': optimizer,
        'dtype': protocol.precision,
        'loss_scale': scale,
    }


def schedulers(protocol: Protocol, steps: int) -> list[dict[str, Any]]:
    """Returns mmengine's scheduler configs, stepping every iteration.

    Args:
        protocol: Gives the schedule.
        steps: Iterations of one epoch.
    """
    total = protocol.epochs * steps
    warm = min(round(protocol.warmup * steps), total - 1)
    common: dict[str, Any] = {'by_epoch': False, 'begin': warm, 'end': total}
    plans: dict[str, dict[str, Any]] = {
        'constant': {'type': 'ConstantLR', 'factor': 1.0, **common},
        'cosine': {'type': 'CosineAnnealingLR', 'T_max': total - warm, **common},
        'poly': {'type': 'PolyLR', 'power': 0.9, **common},
        'step': {
            'type': 'MultiStepLR',
            'by_epoch': False,
            'milestones': [warm + total * k // 6 for k in (1, 2, 3)],
        },
    }
    plan = [plans[protocol.schedule]]
    if warm > 0:
        start = {'type': 'LinearLR', 'start_factor': 1 / (warm + 1), 'by_epoch': False}
        plan.insert(0, {**start, 'begin': 0, 'end': warm})
    return plan


@dataclass(frozen=True)
class Job:
    """What a training is told beside its rules.

    Attributes:
        folder: Where checkpoints and the log go.
        identity: Identity of the experiment, so that no other one is resumed.
        seed: Seed of the experiment.
        device: 'cpu' or 'cuda'.
        only: Subset ids to validate on; all by default.
    """

    folder: Path
    identity: str
    seed: int
    device: str
    only: list[str] | None = None


def train(
    method: Method,
    loaders: tuple[DataLoader, DataLoader],
    protocol: Protocol,
    job: Job,
    progress: Callable[[int, float], None],
) -> dict[str, Any]:
    """Trains a method, resuming where an earlier run was stopped.

    Args:
        method: The method with its initial weights; holds the selected ones afterwards.
        loaders: Training and validation loaders.
        protocol: The rules.
        job: Where and as what.
        progress: Called after each epoch with (finished epochs, seconds so far).

    Returns:
        'seconds' of training, 'epoch' that was selected, and its validation 'scores'.

    Raises:
        TrainingDiverged: A loss became NaN or infinite.
    """
    selection = Selection(protocol.selection, method.task.metric, job.folder)
    checkpoint = Checkpoint(job.folder / 'resume.pth', job.identity, selection, progress)
    runner = _runner(method, loaders, protocol, job, (selection, checkpoint))
    try:
        runner.train()
    finally:
        runner.close()
    if protocol.selection != 'last':
        best = torch.load(selection.best, map_location=job.device, weights_only=True)
        method.load_state_dict(best)
    return {
        'seconds': checkpoint.seconds,
        'epoch': selection.state['epoch'],
        'scores': selection.state['scores'],
    }


def _runner(
    method: Method,
    loaders: tuple[DataLoader, DataLoader],
    protocol: Protocol,
    job: Job,
    keepers: tuple[Selection, Checkpoint],
) -> SilentRunner:
    selection, checkpoint = keepers
    # Validation costs time: without a listener or a rule, only the last epoch's is wanted.
    listens = type(method).on_validation is not Method.on_validation
    interval = protocol.val_interval if listens or selection.rule != 'last' else protocol.epochs
    resume = resumable(checkpoint.file, job.identity)
    return SilentRunner(
        job.device,
        job.folder / 'train.log',
        model=method,
        work_dir=str(job.folder),
        train_dataloader=loaders[0],
        train_cfg={'by_epoch': True, 'max_epochs': protocol.epochs, 'val_interval': interval},
        optim_wrapper=optim_wrapper(protocol),
        param_scheduler=schedulers(protocol, len(loaders[0])),
        val_dataloader=loaders[1],
        val_cfg={'type': SubsetValLoop},
        val_evaluator=SubsetEvaluator(method.task, job.only),
        default_hooks=dict(_NO_DEFAULTS),
        custom_hooks=[EpochState(job.seed, protocol.epochs), LossWatch(), selection, checkpoint],
        resume=resume,
        load_from=str(checkpoint.file) if resume else None,
        randomness={'seed': derive(job.seed, 'runner')},
    )


def test(
    method: Method, loader: DataLoader, folder: Path, device: str, only: list[str] | None
) -> SubsetEvaluator:
    """Tests a trained method on every subset through mmengine's test loop.

    Returns:
        The evaluator with its scores and per-sample outcomes.
    """
    evaluator = SubsetEvaluator(method.task, only)
    runner = SilentRunner(
        device,
        folder / 'train.log',
        model=method,
        work_dir=str(folder),
        test_dataloader=loader,
        test_cfg={'type': SubsetTestLoop},
        test_evaluator=evaluator,
        default_hooks=dict(_NO_DEFAULTS),
        randomness={'seed': 0},
    )
    try:
        runner.test()
    finally:
        runner.close()
    return evaluator
