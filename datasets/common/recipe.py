"""The recipe of a user's own data, whose size and content nobody knows in advance."""

from __future__ import annotations

import math
from typing import Any

STEPS = 1500
"""Fewest steps of a training, unless the command line says otherwise."""

EPOCHS = 20
"""Fewest epochs, so that a large data set is not left after a few passes."""


def recipe(samples: int, largest: int = 64) -> dict[str, Any]:
    """Returns fields of the protocol that suit data of some size.

    A batch holds a quarter of the training samples, at least 2 and at most `largest`. Small data
    take as many epochs as `STEPS` steps need, large data take `EPOCHS`.

    Args:
        samples: Number of training samples.
        largest: Largest number of samples in a batch.
    """
    batch = min(max(samples // 4, 2), largest)
    epochs = max(EPOCHS, math.ceil(STEPS / _steps(samples, batch)))
    return {'epochs': epochs, 'batch_size': batch, 'lr': 2e-3, 'weight_decay': 0.05}


def told(samples: int, fields: dict[str, Any]) -> str:
    """Returns the line that tells the user how long a training is by default, and why.

    Args:
        samples: Number of training samples.
        fields: What `recipe` returned.
    """
    epochs, batch = fields['epochs'], fields['batch_size']
    steps = _steps(samples, batch)
    why = f'at least {EPOCHS} epochs and {STEPS:,} steps'
    return (
        f'default training: {epochs} epochs of {steps} step{"s" if steps > 1 else ""} '
        f'({why}) with batches of {batch}; epochs=N in --cfg-options changes it'
    )


def _steps(samples: int, batch: int) -> int:
    """Returns the steps of an epoch; the last incomplete batch is left out."""
    return max(1, samples // batch)
