"""Clips the gradient of each of a method's networks by its own norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


def clip_networks(
    optimizer: Optimizer, networks: Iterable[Iterable[nn.Module]], largest: float
) -> RemovableHandle:
    """Makes every step of an optimiser clip gradients until the returned handle is removed.

    The hook runs directly before the parameters change: gradients are complete, they are no longer
    multiplied by the factor of mixed precision, and the protocol's `clip` has been applied.

    Args:
        optimizer: The optimiser.
        networks: For each network the modules that belong to it; parameters that occur in several
            modules of a network count once.
        largest: Largest norm of the gradient of one network.

    Returns:
        The handle, which is also a context manager that removes the hook when it is left.
    """
    groups = [parameters(modules) for modules in networks]

    def clip(*_: Any) -> None:
        for group in groups:
            nn.utils.clip_grad_norm_(group, largest)

    return optimizer.register_step_pre_hook(clip)


def parameters(modules: Iterable[nn.Module]) -> Sequence[nn.Parameter]:
    """Returns the parameters of some modules, each one once."""
    return list({id(p): p for module in modules for p in module.parameters()}.values())
