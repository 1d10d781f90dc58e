"""How the learning rate, and the momentum, move during a training."""

from __future__ import annotations

import math
from typing import Any

from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from benchmark.engine.protocol import Protocol


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
            'milestones': [warm + int(total * m + 1e-9) for m in protocol.milestones],
        },
        'hold_linear': {
            'type': 'LinearLR',
            'start_factor': 1.0,
            'end_factor': 0.0,
            'by_epoch': False,
            'begin': max(warm, total // 2),
            'end': total,
        },
    }
    if protocol.schedule == 'onecycle':
        rate, momentum = one_cycle(protocol.lr, total)
        # Without momentum there is none to move, and fused kernels cannot begin one.
        return [rate] if protocol.optimizer == 'SGD' and not protocol.momentum else [rate, momentum]
    plan = [plans[protocol.schedule.partition(':')[0]]]
    if warm > 0:
        start = {'type': 'LinearLR', 'start_factor': 1 / (warm + 1), 'by_epoch': False}
        plan.insert(0, {**start, 'begin': 0, 'end': warm})
    return plan


def one_cycle(lr: float, total: int) -> list[dict[str, Any]]:
    """Returns the scheduler configs of the one-cycle policy.

    The learning rate rises from lr / 25 to lr within the first tenth and falls to lr / 250,000.
    Meanwhile SGD's momentum, or Adam's beta1, falls from 0.95 to 0.85 and rises again, whatever the
    optimiser started with (Smith & Topin, Super-Convergence, 2017). All follow cosines. These are
    the defaults of PyTorch's OneCycleLR, but for the tenth, which is ESANet's. Here they move in
    every iteration; in MMANet's and DMRNet's segmentation scripts once per epoch.

    Args:
        lr: The highest learning rate.
        total: Number of steps of the training.
    """
    common: dict[str, Any] = {'total_steps': total, 'by_epoch': False}
    # PyTorch divides by the length of the rise, which is 0.1 * total - 1 steps: 0 for 10 steps.
    tenth = 0.1 if total != 10 else 0.1 + 1e-9
    rate = {'type': 'OneCycleLR', 'eta_max': lr, 'pct_start': tenth, **common}
    return [rate, {'type': 'OneCycleMomentum', **common}]


@PARAM_SCHEDULERS.register_module()
class OneCycleMomentum(MomentumSchedulerMixin, _ParamScheduler):
    """The momentum of the one-cycle policy, which mmengine lacks.

    Args:
        optimizer: An SGD optimiser with momentum, or one of Adam's family.
        total_steps: Number of steps of the training.
        **kwargs: Further arguments of mmengine's schedulers.
    """

    def __init__(self, optimizer: Any, total_steps: int, **kwargs: Any) -> None:
        self.total_steps = total_steps
        super().__init__(optimizer, **kwargs)

    def _get_value(self) -> list[float]:
        peak, last = 0.1 * self.total_steps - 1, self.total_steps - 1
        if self.last_step <= peak:
            share = self.last_step / peak if peak else 0.0
        else:
            share = (last - min(self.last_step, last)) / (last - peak)
        value = 0.95 - 0.1 * (1 - math.cos(math.pi * share)) / 2
        return [value] * len(self.optimizer.param_groups)
