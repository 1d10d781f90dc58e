"""Methods as they are built before any training: what they consist of shows without data."""

from __future__ import annotations

import contextlib
import functools
import math
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.method import Method, Task
from benchmark.registry import METHODS, lookup, name_of

Options = tuple[tuple[str, Any], ...]
"""Options of a method with their values, by name."""

INIT = 'expected __init__ to call super().__init__(task) first'
"""What a constructor has to do, since PyTorch keeps no layers and no numbers before that."""


def frozen(options: Mapping[str, Any]) -> Options:
    """Returns options in a form by which answers on a method can be remembered."""
    return tuple(sorted(options.items()))


def built(name: str, options: Options, task: Task) -> Method:
    """Returns a method with some weights; the caller's random numbers stay as they are.

    It is built anew in each call: answers on a network take no memory, networks do.

    Args:
        name: Name of the method.
        options: Its options.
        task: The task.

    Raises:
        UserError: The constructor refuses an option, or does not call that of `Method` first.
    """
    with torch.random.fork_rng(devices=[]):
        return constructed(lookup(METHODS, name), task, dict(options))


def constructed(cls: type[Method], task: Task, options: Mapping[str, Any]) -> Method:
    """Returns a method with weights from the random numbers of the caller.

    Args:
        cls: The class of the method.
        task: The task.
        options: Its options.

    Raises:
        UserError: The constructor refuses an option, or does not call that of `Method` first.
    """
    try:
        method = cls(task, **options)
    except AttributeError as error:
        of = [f.f_locals.get('self') for f, _ in traceback.walk_tb(error.__traceback__)]
        modules = [x for x in of if isinstance(x, nn.Module)]
        # A part of the method may have the same fault, which its class has to mend.
        if not (modules and isinstance(modules[-1], cls) and '_modules' not in vars(modules[-1])):
            raise
        raise UserError(f'{name_of(cls)}: {INIT}, found {error}') from None
    if '_modules' not in vars(method):
        raise UserError(f'{name_of(cls)}: {INIT}, found no such call')
    return method


@functools.cache
def refusal(name: str, options: Options, task: Task) -> str:
    """Returns why the constructor of a method refuses values of options, '' if it does not.

    Layers of PyTorch refuse values, too, such as a probability of 2. An error of another kind is a
    fault of the code, which the run tells with its traceback.
    """
    try:
        built(name, options, task)
    except (UserError, ValueError, AssertionError) as error:
        return ' '.join(str(error).split()) or type(error).__name__
    return ''


@functools.cache
def weighs_classes(name: str, options: Options, task: Task) -> bool:
    """Returns whether the loss of a method's own in segmentation depends on the class weights.

    It is computed twice, on the same random logits of the size of the task's images. Where the
    code of a user cannot, the training will tell why, and nothing is known here.
    """
    method, count = built(name, options, task), len(task.classes)
    pixels = task.modalities[0].shape[1:]
    target = torch.arange(2 * math.prod(pixels)).remainder(count).reshape(2, *pixels)
    logits = torch.randn(2, count, *pixels, generator=torch.Generator().manual_seed(0))
    losses = []
    with contextlib.suppress(Exception), torch.no_grad():
        # Two weightings that are no multiples of each other.
        for weights in (torch.ones(count), torch.arange(1.0, count + 1)):
            method.class_weights = weights
            losses.append(method.own_loss(logits, target))
        return not torch.equal(*losses)
    return True
