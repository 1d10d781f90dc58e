"""The content of every row of an array: a hash, and whether its numbers are finite."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.common.io.rows import parts

VERSION = 3
"""Raised when a look at the same array finds something else."""

EXACT = 1 << 53
"""Up to here float64, in which inputs are standardised, holds every whole number exactly."""


class Contents(NamedTuple):
    """What the rows of an array hold.

    Attributes:
        digests: (N,) hashes of the rows, '' for a row that the sample does not have.
        bad: Position of the first row with a number that cannot be read: one that is not finite,
            that float32 cannot hold, or a whole number above `EXACT`. None if there is none.
    """

    digests: Sequence[str]
    bad: int | None


def contents(x: np.ndarray, available: np.ndarray, real: np.ndarray | None = None) -> Contents:
    """Reads an array once, in parts.

    Args:
        x: (N, ...) numbers.
        available: (N,) bool, the rows that samples have; the others are not looked at.
        real: (N, T) bool, for sequences (N, T, D): the frames that are no padding.
    """
    digests, bad = [''] * len(x), None
    for rows in parts(np.flatnonzero(available), x.shape):
        values = np.ascontiguousarray(x[rows])
        if real is not None:
            values = np.where(real[rows][..., None], values, np.zeros((), values.dtype))
        good = readable(values).reshape(len(rows), -1).all(1)
        if bad is None and not good.all():
            bad = int(rows[~good][0])
        for row, value in zip(rows.tolist(), values, strict=True):
            digests[row] = hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()
    return Contents(digests, bad)


def readable(values: np.ndarray) -> np.ndarray:
    """Returns which numbers can be read: finite in float32, or whole and up to `EXACT`."""
    if values.dtype.kind == 'f':
        # A comparison with NaN is false.
        return np.abs(values) <= np.finfo(np.float32).max
    if values.dtype.itemsize < 8:
        return np.ones(values.shape, bool)
    low = values >= -EXACT if values.dtype.kind == 'i' else True
    return (values <= EXACT) & low


def key_of(what: str, x: np.ndarray, *chosen: np.ndarray | None) -> str:
    """Returns the kind of a look at some of an array, for `datasets.common.io.remembered`.

    Args:
        what: What is looked for.
        x: The array.
        chosen: What it depends on which numbers are looked at.
    """
    used = hashlib.sha256()
    for one in chosen:
        used.update(b'-' if one is None else f'{one.dtype} {one.shape} '.encode() + one.tobytes())
    # The strides tell which axis of the file became which of the array.
    return f'{what} {VERSION} {x.shape} {x.strides} {used.hexdigest()}'
