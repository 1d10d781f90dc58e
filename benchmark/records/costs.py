"""The fields of a record that tell what the run cost, as types."""

from __future__ import annotations

from typing import TypedDict


class _Cost(TypedDict):
    parameters: int
    deployed_parameters: int
    flops: dict[str, int]
    train_seconds: float
    teacher_seconds: float
    test_seconds: float
    peak_memory_mb: float


class Cost(_Cost, total=False):
    """What the run cost.

    `deployed_parameters` are those that a prediction needs, `parameters` adds those that serve
    training alone. `flops` are the floating-point operations of one sample, per subset.
    `pretrain_seconds` is the time in which the encoders were trained first, if they were.
    """

    pretrain_seconds: float
