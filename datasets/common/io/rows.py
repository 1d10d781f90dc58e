"""Rows of arrays that may be larger than memory: selected and standardised when they are read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from benchmark.dataset import Rows
from benchmark.errors import UserError

CHUNK = 1 << 22
"""How many numbers are read at once from an array that might not fit into memory."""

ROUNDING = {'float32': 2**-23, 'float64': 2**-46}
"""Rounding of the mean of a feature, as a share of it: that of float32, and 64 of float64's."""

LEAST = {'float32': 1e-37, 'float64': 1e-153}
"""Least standard deviation by which numbers are divided: float32 itself, and squares of float64,
become inexact below it."""


class Chosen:
    """Some rows of an array, which is not copied and may be on disk.

    Implements `benchmark.dataset.Rows`.

    Args:
        source: The array (N, ...).
        rows: (n,) positions of the chosen rows in `source`.
    """

    def __init__(self, source: Rows, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows
        self.shape = (len(rows), *source.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at the positions `index` among the chosen rows."""
        return np.asarray(self.source[self.rows[index]])


class Standardised(Chosen):
    """Chosen rows that are standardised, (x - mean) / std, when they are read.

    Args:
        source: The array of numbers (N, ...).
        rows: (n,) positions of the chosen rows in `source`.
        moments: Mean and standard deviation, which broadcast to the rows. Features whose standard
            deviation is none (`spread`) become 0.
        real: (N, T) bool, for sequences (N, T, D): which frames are data; the others are padding.
            The sequences read are then (n, T, D + 1): the last feature is 1 in frames of data and 0
            in padding (`benchmark.method.Modality.padded`).
        name: Name of the array in messages.
    """

    def __init__(
        self,
        source: np.ndarray,
        rows: np.ndarray,
        moments: tuple[np.ndarray, np.ndarray],
        real: np.ndarray | None = None,
        name: str = '',
    ) -> None:
        super().__init__(source, rows)
        self.mean, std = moments
        self.std = spread(self.mean, std, source.dtype)
        self.real, self.name = real, name
        if real is not None:
            self.shape = (*self.shape[:-1], self.shape[-1] + 1)

    @property
    def preparation(self) -> dict[str, Any]:
        """What rows undergo (`benchmark.dataset.Preparation`)."""
        return facts_of(self.mean[0], self.std[0])

    def prepared_by(self, facts: Mapping[str, Any]) -> Standardised:
        """Returns the rows as another data set prepares them.

        Args:
            facts: The `preparation` of the other data set.
        """
        found = copy.copy(self)
        found.mean, found.std = (x[None] for x in moments_of(facts))
        return found

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the standardised rows at the positions `index` among the chosen rows, float32.

        Raises:
            UserError: A value is infinite or not a number.
        """
        values = self.read(index)
        bad = ~np.isfinite(values).all(tuple(range(1, values.ndim)))
        if bad.any():
            row = int(np.atleast_1d(self.rows[index])[bad][0])
            raise UserError(f'{self.name}: expected finite numbers, found others in row {row}')
        return values

    def read(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the standardised rows without checking that their values are finite."""
        rows = np.atleast_1d(self.rows[index])
        # What float32 cannot hold becomes infinite, and is refused where it is read.
        with np.errstate(over='ignore'):
            values = ((self.source[rows] - self.mean) / self.std).astype(np.float32)
        return values if self.real is None else marked(values, self.real[rows])


def facts_of(mean: np.ndarray, std: np.ndarray) -> dict[str, Any]:
    """Returns means and standard deviations as `benchmark.dataset.Preparation` holds them."""
    return {'mean': mean.tolist(), 'std': np.where(np.isinf(std), 0, std).tolist()}


def moments_of(facts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means and standard deviations that `facts_of` gave."""
    mean, std = np.array(facts['mean'], np.float64), np.array(facts['std'], np.float64)
    return mean, np.where(std == 0, np.inf, std)


def working(dtype: DTypeLike) -> np.dtype:
    """Returns the type in which numbers are standardised, so that none of them is rounded before.

    Args:
        dtype: Type of the numbers: float32 holds those of up to 16 bits, and float64 all others
            that are read.
    """
    return np.dtype(np.float32 if np.can_cast(dtype, np.float32) else np.float64)


def spread(mean: np.ndarray, std: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns standard deviations to divide by: infinity for a constant feature, which becomes 0.

    A standard deviation below the rounding at the mean is no property of the data: dividing by it
    would turn rounding errors into huge inputs.

    Args:
        mean: Means.
        std: Standard deviations, of the same shape.
        dtype: Type of the numbers.
    """
    kind = working(dtype).name
    return np.where(std > np.maximum(ROUNDING[kind] * np.abs(mean), LEAST[kind]), std, np.inf)


def marked(frames: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Marks the padding of sequences.

    Args:
        frames: (n, T, D) sequences.
        real: (n, T) bool, which frames are data.

    Returns:
        (n, T, D + 1): padding is 0, and the last feature is 1 in frames of data and 0 in padding.
    """
    real = real[..., None]
    return np.concatenate([np.where(real, frames, 0), real], -1, dtype=frames.dtype)


def real_frames(lengths: np.ndarray, frames: int) -> np.ndarray:
    """Returns (N, frames) bool: the first lengths[i] frames of row i are data, the rest padding."""
    return np.arange(frames) < np.asarray(lengths)[:, None]


def moments(
    source: Rows, rows: np.ndarray, real: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of some rows, which are read once and in parts.

    The moments of the parts are merged as in Chan, Golub and LeVeque, "Updating formulae and a
    pairwise algorithm for computing sample variances" (1979).

    Args:
        source: (N, D), (N, C, H, W) or, with `real`, (N, T, D).
        rows: Positions of the rows that count.
        real: (N, T) bool, which frames of sequences count.

    Returns:
        Two float64 arrays with one number per feature or channel, which broadcast to the rows.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for part in parts(rows, source.shape):
        values = np.asarray(source[part], np.float64)
        if real is not None:
            values = values[real[part]]
        axes = (0, *range(2, values.ndim))
        here = values.size // values.shape[1]
        centre = values.mean(axes, keepdims=True)
        gap, share = centre - mean, here / (count + here)
        squares = squares + np.square(values - centre).sum(axes, keepdims=True)
        squares = squares + gap**2 * count * share
        mean, count = mean + gap * share, count + here
    return mean, np.sqrt(squares / count)


def varying(mean: np.ndarray, std: np.ndarray, others: Iterable[np.ndarray]) -> list[int]:
    """Returns the features that are constant in some rows and differ from there in others.

    Args:
        mean: Mean of each feature over the rows, which broadcasts to the others.
        std: Standard deviations, infinite where a feature is constant (`spread`).
        others: Other rows in parts (n, D) or (n, C, H, W).
    """
    constant, found = set(np.flatnonzero(np.isinf(std)).tolist()), set()
    for values in others if constant else ():
        gaps = np.abs(values - mean).max((0, *range(2, values.ndim)), keepdims=True)
        found |= set(np.flatnonzero(np.isfinite(spread(mean, gaps, values.dtype))).tolist())
    return sorted(constant & found)


def parts(rows: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields positions in parts whose rows hold about `CHUNK` numbers together.

    Args:
        rows: (n,) positions.
        shape: Shape of the array that the positions belong to.
    """
    size = max(1, CHUNK // max(1, int(np.prod(shape[1:]))))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
