"""How each modality learns: the gradient norm of its encoder, and the loss of it alone.

Both are asked for by `--curves` and change no weight. The loss comes from logits that a validation
on every subset has anyway, so that it sees the validation split alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from benchmark.engine.parallel import processes
from benchmark.method import IGNORE, Batch, Method


class Kept(NamedTuple):
    """What one batch of a validation adds to the loss of a modality.

    Attributes:
        number: Which batch of the split this is.
        loss: The task's loss of the samples that have the modality.
        samples: How many these are.
    """

    number: int
    loss: Tensor
    samples: Tensor


def encoders_of(method: Method) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters of the encoder of each modality, by its name.

    These are the parameters of the submodule `encoders.<modality>`, which `Encoders` of
    `methods/common/networks.py` has. A method without such a submodule is not in the result.
    """
    found = {}
    for name in method.task.names:
        try:
            encoder = method.get_submodule(f'encoders.{name}')
        except AttributeError:
            continue
        found[name] = [p for p in encoder.parameters() if p.requires_grad]
    return {name: parameters for name, parameters in found.items() if parameters}


class Learning(Hook):
    """Keeps gradient norms and single-modality losses until an epoch ends.

    The gradient norm of a modality is the Euclidean norm of the gradient of all parameters of its
    encoder, as the method has computed it and before clipping, averaged over the optimiser's steps
    of an epoch. The loss of a modality is the task's loss of its logits alone on the validation
    split: the mean over batches, weighted by the number of samples that have the modality. All stay
    on the device until the epoch ends: no step waits for them.

    Args:
        method: What is trained.

    Attributes:
        gradients: Modality -> mean gradient norm over the steps of the last epoch.
        losses: Modality -> its loss in the last validation.
    """

    def __init__(self, method: Method) -> None:
        self.method = method
        self.encoders = encoders_of(method)
        self.gradients: dict[str, float] = {}
        self.losses: dict[str, float] = {}
        self._steps: list[Tensor] = []
        self._kept: dict[str, list[Kept]] = {name: [] for name in method.task.names}

    def before_train(self, runner: Runner) -> None:
        """Asks the optimiser's wrapper and the evaluator to tell what they have."""
        if self.encoders:
            runner.optim_wrapper.watch = self.step
        runner.val_loop.evaluator.watch = self.subset

    @torch.no_grad()
    def step(self, wrapper: Any) -> None:
        """Keeps the norms of a step; called before gradients are clipped."""
        norms = []
        for parameters in self.encoders.values():
            gradients = [p.grad for p in parameters if p.grad is not None]
            norms.append(norm(gradients) if gradients else parameters[0].new_tensor(math.nan))
        found = torch.stack(norms)
        if hasattr(wrapper, 'loss_scaler'):
            # Gradients in half precision are scaled until the step.
            found = found / wrapper.loss_scaler.scale(torch.ones_like(found[0]))
        self._steps.append(found)

    def after_train_epoch(self, runner: Runner) -> None:
        """Takes the means over steps, without those that half precision skipped."""
        self.gradients = {}
        if self._steps:
            table = torch.stack(self._steps).float().cpu().numpy()
            means = [_finite_mean(column) for column in table.T]
            self.gradients = dict(zip(self.encoders, means, strict=True))
        self._steps = []

    def subset(
        self, mask: np.ndarray, logits: Tensor, batch: Batch, has: Tensor, number: int
    ) -> None:
        """Keeps the loss of a batch, if the subset is a single modality.

        Args:
            mask: The subset, (M,) bool.
            logits: (B, K) or (B, K, H, W).
            batch: The samples.
            has: (B,) bool, the samples that have the subset.
            number: Which batch of the split this is.
        """
        if mask.sum() != 1:
            return
        name = self.method.task.names[int(mask.argmax())]
        logits, target = _of_one_size(logits, batch.target, self.method.task.metric)
        there = has.view(-1, *[1] * (target.ndim - 1))
        # What a sample without the modality gets as logits may be NaN: 0 takes its place.
        fine = torch.where(has.view(-1, *[1] * (logits.ndim - 1)), logits, 0.0)
        loss = self.method.task_loss(fine, torch.where(there, target, IGNORE))
        self._kept[name].append(Kept(number, loss.double(), has.sum()))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Takes the weighted means of all processes' batches."""
        kept = {n: [Kept(k, *map(Tensor.cpu, x)) for k, *x in v] for n, v in self._kept.items()}
        if processes.world() > 1:
            parts = processes.everyone(kept)
            kept = {n: [each for part in parts for each in part[n]] for n in kept}
        self.losses = {name: _mean(each) for name, each in kept.items() if each}
        self._kept = {name: [] for name in kept}


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """Returns the Euclidean norm of several tensors together."""
    return torch.stack(torch._foreach_norm(list(gradients))).norm()


def _of_one_size(logits: Tensor, target: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Returns logits and target of one size: where they are scored, or the window that is seen."""
    if logits.ndim != 4 or logits.shape[2:] == target.shape[1:]:
        return logits, target
    if metric == 'Dice':  # a network that sees a window predicts nothing outside it
        high, wide = ((t - p) // 2 for t, p in zip(target.shape[1:], logits.shape[2:], strict=True))
        return logits, target[:, high:, wide:][:, : logits.shape[2], : logits.shape[3]]
    size = target.shape[1:]
    return F.interpolate(logits, size, mode='bilinear', align_corners=False), target


def _finite_mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _mean(kept: Sequence[Kept]) -> float:
    """Returns the mean of the batches' losses in the order of the split."""
    ordered = sorted(kept, key=lambda each: each.number)
    counts = np.array([float(each.samples) for each in ordered])
    losses = np.array([float(each.loss) for each in ordered])
    return float((counts * losses).sum() / counts.sum()) if counts.any() else math.nan
