"""Weights and inputs by formula, and gradients as figures, to compare with another code base.

The figures in the tests were made by the released code of a method: its layers were given the
weights of `fill` in the same order, its data those of `drawn`, and each gradient was reduced to the
figures of `figures`, all in double precision.
"""

import numpy as np
import torch


def drawn(seed, *shape):
    """Returns normal numbers that are the same on every machine, as float32."""
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def fill(parameters, first=0):
    """Gives the k-th parameter numbers that depend on k and its shape alone."""
    for k, p in enumerate(parameters, first):
        x = drawn(k, p.numel()).view(p.shape)
        spread = (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1
        p.data.copy_(spread * x if p.dim() > 1 else 0.5 + spread * x)


def figures(gradients):
    """Returns for each tensor its norm and its product with a fixed direction of unit norm."""
    found = []
    for k, g in enumerate(gradients):
        direction = drawn(1000 + k, g.numel()).double()
        g = g.detach().double().flatten()
        found += [g.norm().item(), (g @ direction / direction.norm()).item()]
    return found


def differences(gradients, expected):
    """Returns the largest difference of the figures of each tensor, relative to its norm."""
    found = np.array(figures(gradients)).reshape(-1, 2)
    expected = np.array(expected).reshape(-1, 2)
    # A gradient of zero has to be zero exactly.
    return np.abs(found - expected).max(1) / np.maximum(expected[:, 0], 1e-12)
