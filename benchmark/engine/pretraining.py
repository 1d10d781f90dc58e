"""Pre-training: encoders that are trained first, and that the networks of a table start from.

The field `pretrain` of the protocol names a method that trains them (`Method.pretrains`). It is an
experiment of its own, under the same protocol but for its epochs, and is shared like a teacher.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import nn

from benchmark.engine import untrained
from benchmark.errors import UserError, unknown
from benchmark.method import Method, Task
from benchmark.registry import METHODS, lookup


def method_of(pretrain: str) -> type[Method]:
    """Returns the method that a field `pretrain` names.

    Raises:
        UserError: There is no method of this name, or it is no pre-training.
    """
    known = sorted(name for name, cls in METHODS.module_dict.items() if cls.pretrains)
    if pretrain not in known:
        raise unknown('pretrain', pretrain, known)
    return lookup(METHODS, pretrain)


def needed(cls: type[Method], pretrain: str = '') -> list[type[Method]]:
    """Returns a method and those whose weights its networks use or start from.

    Args:
        cls: The method.
        pretrain: Field of the protocol, the pre-training.
    """
    teacher = [lookup(METHODS, cls.teacher)] if cls.teacher else []
    return [cls, *teacher, *([lookup(METHODS, pretrain)] if pretrain else [])]


def places(method: Method, encoders: nn.Module) -> list[nn.Module]:
    """Returns the parts of a method that can start from the weights of some encoders."""

    def shapes(module: nn.Module) -> dict[str, torch.Size]:
        return {name: x.shape for name, x in module.state_dict().items()}

    wanted = shapes(encoders)
    same = [m for m in method.modules() if type(m) is type(encoders)]
    return [m for m in same if shapes(m) == wanted]


def start(method: Method, trained: Method) -> None:
    """Copies the trained encoders, with the statistics of their normalisation, into a method."""
    encoders = cast(nn.Module, trained.encoders)
    for part in places(method, encoders):
        part.load_state_dict(encoders.state_dict())


def check(label: str, name: str, options: dict[str, Any], task: Task, pretrain: str) -> None:
    """Checks that a method can start from pre-trained encoders.

    Args:
        label: What messages call it.
        name: Name of the method.
        options: Its options.
        task: The task.
        pretrain: Name of the pre-training.

    Raises:
        UserError: It trains encoders for others itself, or has other encoders than these.
    """
    first = method_of(pretrain)
    if lookup(METHODS, name).pretrains:
        raise UserError(
            f'{label} on {task.dataset}: expected no pretrain beside it, since it is a '
            f'pre-training itself, found pretrain={pretrain}'
        )
    first.check_network(task)
    if not _fits(name, untrained.frozen(options), task, pretrain):
        raise UserError(
            f'{label} on {task.dataset}: expected the encoders that all methods share, which '
            f'pretrain={pretrain} trains, found others'
        )


@functools.cache
def _fits(name: str, options: untrained.Options, task: Task, pretrain: str) -> bool:
    """Returns whether a method has encoders that a pre-training trains; both are built for it."""
    method, trained = untrained.built(name, options, task), untrained.built(pretrain, (), task)
    return bool(places(method, cast(nn.Module, trained.encoders)))
