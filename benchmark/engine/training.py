"""Trains and tests one network through mmengine's Runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from benchmark.engine import noise, state, validating
from benchmark.engine.averaging import Averaging
from benchmark.engine.compiling import Compiling
from benchmark.engine.curves import Curves, Showing
from benchmark.engine.evaluation import SubsetEvaluator, SubsetTestLoop, SubsetValLoop
from benchmark.engine.hooks import Checkpoint, EpochState, LossWatch, Selection
from benchmark.engine.learning import Learning
from benchmark.engine.loading import Samples
from benchmark.engine.mask_schedules import LearnedMasks
from benchmark.engine.parallel import processes
from benchmark.engine.parallel.sections import InStep
from benchmark.engine.parallel.sharing import shared_modules
from benchmark.engine.protocol import Protocol
from benchmark.engine.runner import SilentRunner
from benchmark.engine.schedules import schedulers
from benchmark.engine.wrappers import MixedWrapper, PlainWrapper
from benchmark.method import Method
from benchmark.missing import derive

LOG = 'train.log'
"""File with the curves of losses and validation, and with tracebacks."""


def optim_wrapper(protocol: Protocol) -> dict[str, Any]:
    """Returns mmengine's optimiser config, with mixed precision where the protocol says so."""
    optimizer: dict[str, Any] = {
        'type': protocol.optimizer,
        'lr': protocol.lr,
        'weight_decay': protocol.weight_decay,
    }
    # One kernel for all weights: the small networks of a comparison have hundreds of them. That of
    # SGD fails where some weights get their first gradient, and momentum, later than others; on a
    # GPU PyTorch then takes a few kernels for all of them by itself, if nothing is said.
    if protocol.optimizer != 'SGD' or not protocol.momentum:
        optimizer['fused'] = True
    if protocol.optimizer == 'SGD':
        nesterov = protocol.nesterov and protocol.momentum > 0
        optimizer.update(momentum=protocol.momentum, nesterov=nesterov)
    clip = {'clip_grad': {'max_norm': protocol.clip}} if protocol.clip else {}
    if protocol.precision == 'float32':
        return {'type': PlainWrapper, 'optimizer': optimizer, **clip}
    # bfloat16 has float32's range and needs no loss scaling, whose check would stall each step.
    scale: Any = 'dynamic' if protocol.precision == 'float16' else {'enabled': False}
    return {
        'type': MixedWrapper,
        'optimizer': optimizer,
        'dtype': protocol.precision,
        'loss_scale': scale,
        **clip,
    }


@dataclass(frozen=True)
class Job:
    """Where a training writes, and the identity, seed and device that it has.

    Attributes:
        folder: Where checkpoints and the log go.
        identity: Identity of the network, so that no other one is resumed.
        seed: Seed of the experiment.
        device: 'cpu' or 'cuda'.
        only: Subset ids to validate on; all by default.
        curves: Whether the validation split is evaluated every `val_interval` epochs although
            nothing but the curves needs it, and how each modality learns is kept.
        visualizer: What also shows the curves: 'tensorboard', 'wandb', 'mlflow' or nothing.
        about: What the training is, as plain values, for the visualiser.
        compiled: Whether torch.compile compiles the network.
    """

    folder: Path
    identity: str
    seed: int
    device: str
    only: list[str] | None = None
    curves: bool = False
    visualizer: str = ''
    about: Mapping[str, Any] = field(default_factory=dict)
    compiled: bool = False


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
        'seconds' of training, 'epoch' that was selected, its validation 'scores', and 'curves'.

    Raises:
        TrainingDiverged: A loss or prediction became NaN or infinite.
        Unusable: A damaged state file, whose hash did not show it, has been removed.
    """
    full = job.only[-1] if job.only else '+'.join(method.task.names)
    given = protocol.selection, method.task.metric, full, job.folder
    selection = Selection(*given, protocol.subsets)
    averaging = Averaging(protocol.ema)
    resume = job.folder / state.RESUME
    learning = Learning(method) if job.curves else None
    curves = Curves(method.task.metric, watch := LossWatch(), learning)
    checkpoint = Checkpoint(resume, job.identity, selection, averaging, curves.state, progress)
    own = job.visualizer, job.folder, job.about, job.identity, curves
    showing = [Showing(*own)] if job.visualizer else []
    masks = LearnedMasks(curves.state, method.task.metric)
    others = *showing, *([Compiling()] if job.compiled else [])
    own_hooks = masks, watch, learning, curves, *others, selection, averaging, checkpoint
    hooks = [*filter(None, own_hooks), InStep()]
    runner = _runner(method, loaders, protocol, job, hooks, checkpoint.restore)
    try:
        with shared_modules(method, loaders[0]):
            runner.train()
        averaging.use(method)
        if protocol.selection != 'last' and processes.leads():
            sha256 = selection.state.get('best')
            best = state.load_weights(selection.best, method.state_dict(), sha256)
            method.load_state_dict(best)
    except state.Unusable as error:
        state.name(job.folder, error)
        state.discard(job.folder, *state.LEFTOVERS)
        raise
    finally:
        for hook in showing:
            hook.close()
        runner.close()
    return {
        'seconds': checkpoint.seconds,
        'epoch': selection.state['epoch'],
        'scores': selection.state['scores'],
        'curves': curves.state,
    }


def _runner(
    method: Method,
    loaders: tuple[DataLoader, DataLoader],
    protocol: Protocol,
    job: Job,
    hooks: Sequence[Hook],
    restore: Callable[[Runner, Mapping[str, Any]], None],
) -> SilentRunner:
    train_samples, val_samples = (cast(Samples, loader.dataset) for loader in loaders)
    method.data_preprocessor.augment = noise.augmentation(train_samples, protocol.vector_noise)
    interval = validating.interval(type(method), protocol, job.curves)
    saved = processes.told(lambda: _saved(method, protocol, job))
    return SilentRunner(
        job.device,
        job.folder / LOG,
        (lambda runner: restore(runner, saved)) if saved is not None else None,
        model=method,
        train_dataloader=loaders[0],
        train_cfg={'by_epoch': True, 'max_epochs': protocol.epochs, 'val_interval': interval},
        optim_wrapper=optim_wrapper(protocol),
        param_scheduler=schedulers(protocol, len(loaders[0])),
        val_dataloader=loaders[1],
        val_cfg={'type': SubsetValLoop},
        val_evaluator=SubsetEvaluator(method.task, job.only, val_samples.split),
        custom_hooks=[EpochState(job.seed, protocol.epochs), *hooks],
        randomness={'seed': derive(job.seed, 'runner')},
    )


def _saved(method: Method, protocol: Protocol, job: Job) -> dict[str, Any] | None:
    """Returns the state that a training goes on from; without one, says whose the folder is."""
    saved = state.read_resume(job.folder, job.identity, method.state_dict())
    if saved is None:
        state.begin(job.folder, job.identity, protocol.epochs)
    return saved


def test(
    method: Method, loader: DataLoader, folder: Path, device: str, only: list[str] | None
) -> SubsetEvaluator:
    """Tests a trained method on every subset through mmengine's test loop.

    Returns:
        The evaluator with its scores and per-sample outcomes.

    Raises:
        TrainingDiverged: A prediction is NaN or infinite.
    """
    evaluator = SubsetEvaluator(method.task, only, cast(Samples, loader.dataset).split)
    runner = SilentRunner(
        device,
        folder / LOG,
        model=method,
        test_dataloader=loader,
        test_cfg={'type': SubsetTestLoop},
        test_evaluator=evaluator,
        randomness={'seed': 0},
    )
    try:
        runner.test()
    finally:
        runner.close()
    return evaluator
