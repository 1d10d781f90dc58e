"""What a training's curves are drawn from, and their way to the tools that show them."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner

from benchmark.engine import state
from benchmark.engine.contents import home
from benchmark.engine.hooks import LossWatch
from benchmark.engine.learning import Learning
from benchmark.method import SubsetScore
from benchmark.records.curves import Curve

PROJECT = 'incomplete-multimodal-benchmark'
"""What the runs are filed under in Weights & Biases and MLflow."""

TRACKING = os.environ.get('MLFLOW_TRACKING_URI')
"""Where the user wants MLflow to write; MLflow itself changes the variable at every run."""


class Curves(Hook):
    """Keeps the mean of each loss term, the learning rate and the validation scores of each epoch.

    Nothing is read from the device: `LossWatch` reads the terms of an epoch at once, at its end.

    Args:
        metric: The task's metric.
        watch: Gives the means of the loss terms; its hook runs before this one.
        learning: Likewise gives what is kept of single modalities, if it is wanted.
    """

    def __init__(self, metric: str, watch: LossWatch, learning: Learning | None = None) -> None:
        self.metric, self.watch, self.learning = metric, watch, learning
        self.state: Curve = {
            'epochs': [],
            'lr': [],
            'losses': {},
            'validated': [],
            'validation': {},
        }
        self._lr = math.nan

    def before_train_epoch(self, runner: Runner) -> None:
        """Takes note of the learning rate of the epoch's first step."""
        self._lr = runner.optim_wrapper.get_lr()['lr'][0]

    def after_train_epoch(self, runner: Runner) -> None:
        """Keeps the learning rate and the loss terms of the epoch."""
        kept = self.state
        _append(kept['losses'], self.watch.means, len(kept['epochs']))
        if norms := self._of_learning('gradient_norms'):
            _append(kept.setdefault('gradient_norms', {}), norms, len(kept['epochs']))
        kept['epochs'].append(runner.epoch)
        kept['lr'].append(_short(self._lr))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Keeps the validation scores of the epoch that just ended."""
        scores: dict[str, SubsetScore] = runner.val_loop.evaluator.scores
        kept, values = self.state, {s: v.metrics[self.metric] for s, v in scores.items()}
        _append(kept['validation'], values, len(kept['validated']))
        if losses := self._of_learning('modality_losses'):
            _append(kept.setdefault('modality_losses', {}), losses, len(kept['validated']))
        # The epoch counter was raised before validation.
        kept['validated'].append(runner.epoch - 1)

    def _of_learning(self, name: Literal['gradient_norms', 'modality_losses']) -> dict[str, float]:
        """Returns what an epoch adds; of a training that goes on without `--curves`, no numbers."""
        known = dict.fromkeys(self.state.get(name, ()), math.nan)
        if self.learning is None:
            return known
        gradients = name == 'gradient_norms'
        return {**known, **(self.learning.gradients if gradients else self.learning.losses)}


def _append(
    series: dict[str, list[float | None]], values: Mapping[str, float], length: int
) -> None:
    """Adds a value to each of several series; None where it is not known, or not finite."""
    for name in {**series, **values}:
        value = values.get(name, math.nan)
        known = series.setdefault(name, [None] * length)
        known.append(_short(value) if math.isfinite(value) else None)


def _short(value: float) -> float:
    """Returns a number with six significant digits."""
    return float(f'{value:.6g}')


def _settings(name: str, folder: Path, about: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """Returns the configuration of one of mmengine's visualisation backends."""
    title = '/'.join(str(about[key]) for key in ('dataset', 'method', 'seed') if key in about)
    place = folder.absolute() / name
    own: dict[str, dict[str, Any]] = {
        'tensorboard': {'type': 'TensorboardVisBackend', 'save_dir': str(place)},
        'wandb': {
            'type': 'WandbVisBackend',
            'save_dir': str(place.parent),  # it makes a folder of its name there
            'init_kwargs': {
                'project': PROJECT,
                'name': title,
                # A training that goes on, goes on in the same run.
                'id': re.sub(r'\W', '-', identity),
                'resume': 'allow',
                'settings': {'console': 'off', 'silent': True},
            },
            'define_metric_cfg': [{'name': '*', 'step_metric': 'epoch'}],
        },
        'mlflow': {
            'type': 'MLflowVisBackend',
            'save_dir': str(place),
            'exp_name': PROJECT,
            'run_name': title,
            # MLflow 3 refuses the folder of plain files that mmengine would choose.
            'tracking_uri': TRACKING or f'sqlite:///{place}/mlflow.db',
            'artifact_location': place.as_uri(),
            'artifact_suffix': (),  # it would upload weights and logs
        },
    }
    return own[name]


class Showing(Hook):
    """Tells the curves of a training to a visualisation backend of mmengine, once an epoch.

    A backend that fails, for example because its server cannot be reached, ends no training: that
    is said in one line, and the training goes on without it.

    Args:
        name: 'tensorboard', 'wandb' or 'mlflow'.
        folder: The folder of the network; the backend writes into one of its own there.
        about: What the training is, as plain values.
        identity: Identity of the network.
        curves: What is told; its hook runs before this one.
    """

    priority = 'LOW'

    def __init__(
        self, name: str, folder: Path, about: Mapping[str, Any], identity: str, curves: Curves
    ) -> None:
        self.name, self.folder, self.about, self.curves = name, home(folder), about, curves
        self.identity = identity
        self.backend: Any = None

    def before_train(self, runner: Runner) -> None:
        """Opens the backend and tells it what is trained."""
        if self.name == 'tensorboard' and not runner.epoch:
            # TensorBoard would draw a training that was run again over the one before.
            state.discard(self.folder, self.name)
        settings = _settings(self.name, self.folder, self.about, self.identity)
        with self._failing():
            self.backend = VISBACKENDS.build(settings)
        # mmengine's backend of MLflow looks into the work_dir when it is closed.
        about = {**self.about, 'work_dir': str(self.folder / self.name)}
        self._tell('add_config', Config(about))

    def after_train_epoch(self, runner: Runner) -> None:
        """Tells the losses and the learning rate of the epoch."""
        kept = self.curves.state
        losses = {f'train/{name}': values[-1] for name, values in kept['losses'].items()}
        self._scalars({**losses, 'train/lr': kept['lr'][-1]}, runner.epoch)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Tells the validation score of every subset."""
        metric, validation = self.curves.metric, self.curves.state['validation']
        scores = {f'val/{metric} {subset}': v[-1] for subset, v in validation.items()}
        self._scalars(scores, runner.epoch - 1)

    def close(self) -> None:
        """Closes the backend, however the training has ended."""
        self._tell('close')
        self.backend = None

    def _scalars(self, values: Mapping[str, float | None], epoch: int) -> None:
        # MLflow takes no '+' in a name, and TensorBoard would put '_' in its place.
        told = {re.sub(r'[^\w./ -]', '-', k): v for k, v in values.items() if v is not None}
        if self.name == 'wandb':
            told['epoch'] = epoch  # its backend ignores the step
        self._tell('add_scalars', told, epoch)

    def _tell(self, word: str, *values: Any) -> None:
        if self.backend is not None:
            with self._failing():
                getattr(self.backend, word)(*values)

    @contextlib.contextmanager
    def _failing(self) -> Any:
        try:
            yield
        except Exception as error:  # of a foreign package, a server or a network
            self.backend = None
            why = ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
            print(
                f'{self.folder}: --visualizer {self.name}: {why}; the training goes on without it',
                flush=True,
            )
