"""Compiles the networks of a method with torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from benchmark.method import Batch, Method

Backend = str | Callable[..., Any]

GRAPHS = 64
"""Graphs that PyTorch makes at most of one `forward`, of 8 by default. The blocks of a network
share theirs, and each needs graphs for training and for tests; what has too many is not compiled.
"""


class Compiling(Hook):
    """Compiles a method before the first epoch, and before others what their loss adds.

    Args:
        backend: As of torch.compile.

    Attributes:
        names: The compiled modules.
    """

    priority = 'LOW'

    def __init__(self, backend: Backend = 'inductor') -> None:
        self.backend, self.names = backend, list[str]()

    def before_train_epoch(self, runner: Runner) -> None:
        """Compiles what is not compiled yet; the method has been told the epoch before."""
        if lacking(runner.model, self.names):
            self.names += compiled(runner.model, self.backend, self.names)


def compiled(
    method: Method, backend: Backend = 'inductor', known: Collection[str] = ()
) -> list[str]:
    """Compiles the largest parts of a method that its loss calls as a whole in its epoch.

    Methods call the parts of their networks in many ways, and their losses decide in Python what
    belongs to an epoch. Therefore not the loss is compiled but every module whose `forward` runs
    directly under the method's own code, such as all encoders together or the stages of a decoder.
    Names and values of the weights stay as they are.

    Args:
        method: The method, with its teacher, which is not compiled.
        backend: As of torch.compile.
        known: Modules that are compiled already.

    Returns:
        The names of the modules that were compiled now.
    """
    # The older of two names of this setting is known to all versions of PyTorch.
    settings = torch._dynamo.config
    settings.cache_size_limit = max(settings.cache_size_limit, GRAPHS)
    names = [name for name in called(method) if name not in known]
    for name in names:
        method.get_submodule(name).compile(backend=backend)
    return names


def lacking(method: Method, names: Collection[str]) -> bool:
    """Returns whether some weights are in none of the named modules."""
    parts = tuple(f'{name}.' for name in names)
    return not all(name.startswith(parts) for name, _ in method.named_parameters())


def called(method: Method) -> list[str]:
    """Returns the names of the modules with weights that the loss calls, without their parts."""
    trial = copy.deepcopy(method).train()  # a loss changes running statistics and buffers
    for module in trial.modules():
        module._compiled_call_impl = None  # hooks are not called in compiled modules
    names = {module: name for name, module in trial.named_modules() if name}
    found: list[str] = []
    inside = 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal inside
        if not inside and any(True for _ in module.parameters()):
            found.append(names[module])
        inside += 1

    def leave(*_: Any) -> None:
        nonlocal inside
        inside -= 1

    for module in names:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
    device = next(method.parameters()).device
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == 'cuda' else []):
        trial.loss(_zeros(method, device))
    return list(dict.fromkeys(found))


def _zeros(method: Method, device: torch.device) -> Batch:
    """Returns a batch of two samples of zeros."""
    task = method.task
    target: tuple[int, ...] = (2,)
    if task.kind == 'segmentation':
        target += tuple(task.modalities[0].shape[1:])
    elif task.kind in ('multilabel', 'regression'):
        target += (len(task.classes),)
    there = torch.ones(2, len(task.modalities), dtype=torch.bool, device=device)
    return Batch(
        {m.name: torch.zeros(2, *m.shape, device=device) for m in task.modalities},
        there,
        there,
        torch.zeros(
            target, dtype=torch.float32 if task.kind == 'regression' else torch.int64, device=device
        ),
        torch.arange(2, device=device),
    )
