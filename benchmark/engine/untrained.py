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
    """
    with torch.random.fork_rng(devices=[]):
        return lookup(METHODS, name)(task, **dict(options))


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
