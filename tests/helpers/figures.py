"""Weights and inputs by formula, and gradients as figures, to compare with another code base.

The figures in the tests were made by the released code of a method: its layers were given the
weights of `fill` in the same order, its data those of `drawn`, and each gradient was reduced to the
figures of `figures`, all in double precision.
"""

import math

import numpy as np
import torch


def drawn(seed, *shape, period=0):
    """Returns normal numbers that are the same on every machine, rounded to float32.

    A `period` repeats the first numbers, which spares the time to draw millions.
    """
    count = math.prod(shape)
    x = np.random.RandomState(seed).standard_normal(min(count, period or count))
    return torch.from_numpy(np.resize(x.astype(np.float32), shape)).to(torch.get_default_dtype())


def fill(parameters, first=0, period=0):
    """Gives the k-th parameter numbers that depend on k and its shape alone."""
    for k, p in enumerate(parameters, first):
        # The product is rounded to single precision, whatever the precision of the parameter.
        x = drawn(k, p.numel(), period=period).view(p.shape).to(torch.float32)
        spread = (2 / p[0].numel()) ** 0.5 if p.dim() > 1 else 0.1
        p.data.copy_(spread * x if p.dim() > 1 else 0.5 + spread * x)


def figures(gradients, period=0):
    """Returns for each tensor its norm and its product with a fixed direction of unit norm."""
    found = []
    for k, g in enumerate(gradients):
        direction = drawn(1000 + k, g.numel(), period=period).double()
        g = g.detach().double().flatten()
        found += [g.norm().item(), (g @ direction / direction.norm()).item()]
    return found


def differences(gradients, expected, period=0):
    """Returns for each tensor how far it is from the expected one, relative to its norm.

    The greater of two estimates is taken: the difference of the norms, and that of the products
    with the fixed direction, times the root of the number of elements n. An error that has nothing
    to do with the direction has on average 1 / n of its square along it, so that the second
    estimate is the error's norm times a normal number. It tells the size of an error, not its
    digits, and of many tensors with errors of one size nearly all show them.
    """
    found = np.array(figures(gradients, period)).reshape(-1, 2)
    expected = np.array(expected).reshape(-1, 2)
    apart = np.abs(found - expected) * [[1, g.numel() ** 0.5] for g in gradients]
    # A gradient of zero has to be zero exactly.
    return apart.max(1) / np.maximum(expected[:, 0], 1e-12)
