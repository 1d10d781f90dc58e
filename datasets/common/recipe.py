"""The recipe of a user's own data, whose size and content nobody knows in advance."""

from __future__ import annotations

import math
from typing import Any

STEPS = 1500
"""Fewest steps of a training, unless the command line says otherwise. Vectors of M modalities take
M - 1 times as many: the more subsets there are, the more rarely a sample draws one of them."""

EPOCHS = 20
"""Fewest epochs, so that a large data set is not left after a few passes."""


VECTORS = {'vector_noise': 4.0, 'ema': 0.9998}
"""Further fields for vectors: noise (`benchmark.engine.noise`) and averaged weights keep a network
from overfitting where a linear model does not. `docs/layouts.md` says how they were chosen."""


def recipe(
    samples: int, largest: int = 64, vectors: bool = False, modalities: int = 2
) -> tuple[dict[str, Any], str]:
    """Returns fields of the protocol that suit data of some size, and why.

    A batch holds a quarter of the training samples, at least 2 and at most `largest`. Small data
    take as many epochs as `STEPS` steps need, large data take `EPOCHS`. For images the number of
    modalities changes nothing, for it was not measured on images.

    Args:
        samples: Number of training samples.
        largest: Largest number of samples in a batch.
        vectors: Whether vectors are among the modalities, for which `VECTORS` holds, too.
        modalities: Number of modalities.

    Returns:
        The fields, and a line for the user.
    """
    batch = min(max(samples // 4, 2), largest)
    steps = max(1, samples // batch)  # the last incomplete batch of an epoch is left out
    least = STEPS * (max(1, modalities - 1) if vectors else 1)
    epochs = max(EPOCHS, math.ceil(least / steps))
    told = (
        f'default training: {epochs} epochs of {steps} step{"s" if steps > 1 else ""} '
        f'(at least {EPOCHS} epochs and {least:,} steps) with batches of {batch}; '
        'epochs=N in --cfg-options changes it'
    )
    fields = {'epochs': epochs, 'batch_size': batch, 'lr': 2e-3, 'weight_decay': 0.05}
    return {**fields, **(VECTORS if vectors else {})}, told
