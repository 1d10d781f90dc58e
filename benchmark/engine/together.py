"""Whether a method, a task and a protocol go together, as far as it shows without data."""

from __future__ import annotations

from typing import Any

from benchmark.engine import backbones, gaps, loading, mask_schedules, one_encoder
from benchmark.engine.protocol import Protocol
from benchmark.method import Task
from benchmark.missing import Sampler
from benchmark.registry import METHODS, lookup


def check(label: str, name: str, options: dict[str, Any], task: Task, protocol: Protocol) -> None:
    """Checks what an experiment consists of.

    Args:
        label: What messages call the method.
        name: Its registered name.
        options: Its options.
        task: The task, with what the protocol chooses.
        protocol: The protocol.

    Raises:
        UserError: Network, gaps, sampling, sampler, encoder or mask schedule do not fit
            the method or the task.
    """
    lookup(METHODS, name).check_network(task)
    gaps.check(task, protocol)
    loading.check_sampling(protocol.sampling, task)
    mask_schedules.check(protocol.mask_schedule, Sampler(protocol.sampler, task.names), task)
    backbones.check(label, name, options, task)
    one_encoder.check(label, name, options, task)
