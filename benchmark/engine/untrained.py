"""Methods as they are built before any training: what they consist of shows without data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from benchmark.errors import UserError
from benchmark.method import Method, Task
from benchmark.registry import METHODS, lookup

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
    cls = lookup(METHODS, name)
    try:
        with torch.random.fork_rng(devices=[]):
            method: Method = cls(task, **dict(options))
    except AttributeError as error:
        early = isinstance(error.obj, cls) and '_modules' not in vars(error.obj)
        if not early and 'before Module.__init__() call' not in str(error):
            raise
        raise UserError(f'{name}: {INIT}, found {str(error) or "none"}') from None
    if '_modules' not in vars(method):
        raise UserError(f'{name}: {INIT}, found no such call')
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

    It is computed twice, on the same random logits of a few pixels.
    """
    method, count = built(name, options, task), len(task.classes)
    pixels = (8, 8, 8) if task.volumes else (8, 8)
    target = torch.arange(2 * 8 ** len(pixels)).remainder(count).reshape(2, *pixels)
    logits = torch.randn(2, count, *pixels, generator=torch.Generator().manual_seed(0))
    weighted = method.own_loss(logits, target)
    method.class_weights = torch.arange(1.0, count + 1)
    return not torch.equal(weighted, method.own_loss(logits, target))
