"""Training masks of many modalities: draws in closed form, without a table of the 2^M-1 subsets.

Each function draws one non-empty subset per sample from a distribution over all subsets, restricted
to those of what the sample has. A row is empty where no such subset can occur.
"""

from __future__ import annotations

import math

import numpy as np


def bernoulli(available: np.ndarray, absent: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws masks if each modality is missing on its own, given that one at least is there.

    The first modality that is there is drawn by its probability given that there is one; those
    behind it are independent of it and of each other. With rates of 0.5 all subsets are equally
    likely.

    Args:
        available: (N, M) bool, what each sample has.
        absent: (M,) probability of being missing.
        rng: The generator to draw from.

    Returns:
        (N, M) bool.
    """
    there = np.where(available, 1 - absent, 0.0)
    none_before = np.cumprod(np.pad(1 - there, ((0, 0), (1, 0)), constant_values=1), axis=1)
    reached = np.cumsum(none_before[:, :-1] * there, axis=1)
    first = (reached <= reached[:, -1:] * rng.random((len(there), 1))).sum(1, keepdims=True)
    places = np.arange(len(absent))
    mask = (places == first) | ((places > first) & (rng.random(there.shape) < there))
    # A modality that is never missing belongs to every subset that can occur.
    possible = (available | (absent > 0)).all(1) & (reached[:, -1] > 0)
    found: np.ndarray = mask & possible[:, None]
    return found


def by_size(available: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws masks if every size is equally likely, and so is every subset of a size.

    Of M modalities a subset of k then has the probability 1 / (M C(M, k)), and of the a that a
    sample has, C(a, k) subsets have this size.

    Args:
        available: (N, M) bool, what each sample has.
        rng: The generator to draw from.

    Returns:
        (N, M) bool.
    """
    count = available.shape[1]
    shares = np.array(
        [[math.comb(a, k) / math.comb(count, k) for k in range(1, count + 1)]
         for a in range(count + 1)]
    )  # fmt: skip
    reached = np.cumsum(shares[available.sum(1)], axis=1)
    size = 1 + (reached <= reached[:, -1:] * rng.random((len(reached), 1))).sum(1, keepdims=True)
    keys = np.where(available, rng.random(available.shape), 2.0)
    found: np.ndarray = available & (keys.argsort(1).argsort(1) < size)
    return found


def only(available: np.ndarray, subset: np.ndarray) -> np.ndarray:
    """Returns one subset (M,) for every sample that has it, (N, M) bool."""
    having = np.asarray((available >= subset).all(1))
    return having[:, None] & subset
