"""After which epochs a training predicts the validation split."""

from __future__ import annotations

from benchmark.engine.protocol import Protocol
from benchmark.method import Method


def interval(method: type[Method], protocol: Protocol, curves: bool) -> int:
    """Returns the epochs between two validations.

    Validation costs time: without a listener or a rule, only the last epoch's is wanted.

    Args:
        method: What is trained; it listens if it has an `on_validation` of its own.
        protocol: The rules.
        curves: Whether the curves need them.
    """
    listens = method.on_validation is not Method.on_validation
    wanted = listens or protocol.validates or curves
    return protocol.val_interval if wanted else protocol.epochs


def validated(epochs: int, every: int) -> list[int]:
    """Returns the epochs, counted from 1, after which mmengine's training loop validates.

    Args:
        epochs: Number of epochs; the last one is always validated.
        every: As of `interval`.
    """
    return [n for n in range(1, epochs + 1) if n % every == 0 or n == epochs]
