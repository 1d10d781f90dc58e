"""What the constructor of a method or data set takes, and what it hands on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any


def parameters_of(cls: type) -> Iterator[inspect.Parameter]:
    """Yields the parameters of a constructor, and of a data set those that it hands on.

    Those of the nearest class come first. Every parameter of a method stands in its own file.
    """
    found = _signature(cls)
    yield from found
    bases = [base for base in cls.__mro__ if '__init__' in vars(base)][1:]
    for base in bases if hasattr(cls, 'shared_options') else ():
        if all(p.kind is not p.VAR_KEYWORD for p in found):
            return
        _, *found = _signature(vars(base)['__init__'])
        yield from found


def _signature(called: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(called, eval_str=True).parameters.values()]
    except NameError:  # an annotation that only a type checker can resolve
        return [*inspect.signature(called).parameters.values()]
