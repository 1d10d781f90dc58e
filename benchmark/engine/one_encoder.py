"""Whether the field `share_encoders` of the protocol has an effect on a method and its data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from benchmark.engine import untrained
from benchmark.errors import UserError
from benchmark.method import Method, Task
from benchmark.registry import METHODS, lookup


def check(label: str, name: str, options: dict[str, Any], task: Task) -> None:
    """Checks that encoders are shared where the task says so.

    Args:
        label: What messages call the method.
        name: Name of the method.
        options: Its options.
        task: The task.

    Raises:
        UserError: No two encoders of the method are of like kind and size.
    """
    if not task.share_encoders or lookup(METHODS, name).fit is not Method.fit:
        return
    if not _shares(name, untrained.frozen(options), task):
        raise UserError(
            f'{label} on {task.dataset}: share_encoders: expected encoders of two modalities of '
            'like kind and size, found none'
        )


@functools.cache
def _shares(name: str, options: untrained.Options, task: Task) -> bool:
    """Returns whether a method has fewer parameters if encoders are shared; both are built."""
    counts = []
    for shared in (False, True):
        own = dataclasses.replace(task, share_encoders=shared)
        method = untrained.built(name, options, own)
        counts.append(sum(p.numel() for p in method.parameters()))
    return counts[1] < counts[0]
