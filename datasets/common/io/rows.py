"""Rows of large or padded arrays: picked, standardised and marked when they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmark.dataset import Rows
from benchmark.errors import UserError

CHUNK = 1 << 22
"""Numbers read at once where a whole array might not fit into memory."""


class Chosen:
    """Some rows of an array that stays where it is, e.g. on disk; a `benchmark.dataset.Rows`.

    Args:
        source: (N, ...).
        rows: (n,) positions in it.
    """

    def __init__(self, source: Rows, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows
        self.shape = (len(rows), *source.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at positions among those chosen."""
        return np.asarray(self.source[self.rows[index]])


class Standardised(Chosen):
    """Chosen rows, standardised when they are read.

    Args:
        source: (N, ...) numbers.
        rows: (n,) positions in it.
        moments: Mean and standard deviation, which broadcast to the rows.
        real: (N, T) bool, which frames of sequences (N, T, D) are no padding; they get a feature
            more, which says so (`benchmark.method.Modality.padded`).
        name: How messages call the array.
    """

    def __init__(
        self,
        source: Rows,
        rows: np.ndarray,
        moments: tuple[np.ndarray, np.ndarray],
        real: np.ndarray | None = None,
        name: str = '',
    ) -> None:
        super().__init__(source, rows)
        self.mean, std = moments
        self.std = np.where(std > 0, std, 1)
        self.real, self.name = real, name
        if real is not None:
            self.shape = (*self.shape[:-1], self.shape[-1] + 1)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at positions among those chosen, float32.

        Raises:
            UserError: They hold what is not finite.
        """
        values = self.read(index)
        bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
        if bad.any():
            row = int(np.atleast_1d(self.rows[index])[bad][0])
            raise UserError(f'{self.name}: expected finite numbers, found others in row {row}')
        return values

    def read(self, index: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Returns the rows as they are, also those that hold what is not finite."""
        rows = np.atleast_1d(self.rows[index])
        values = ((self.source[rows] - self.mean) / self.std).astype(np.float32)
        return values if self.real is None else marked(values, self.real[rows])


def marked(frames: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Returns frames (n, T, D), zero where real (n, T) is false, and real as one more feature."""
    real = real[..., None]
    return np.concatenate([np.where(real, frames, 0), real], -1, dtype=frames.dtype)


def real_frames(lengths: np.ndarray, frames: int) -> np.ndarray:
    """Returns (N, frames) bool, of which the first lengths (N,) are true."""
    return np.arange(frames) < np.asarray(lengths)[:, None]


def moments(
    source: Rows, rows: np.ndarray, real: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of some rows, read once and in parts.

    Parts are merged as by Chan, Golub & LeVeque (1979).

    Args:
        source: (N, D), (N, C, H, W), or, with `real`, (N, T, D).
        rows: Positions of the rows that count.
        real: (N, T) bool, the frames of sequences that count.

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


def parts(rows: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yields positions in portions of about `CHUNK` numbers of an array of this shape."""
    size = max(1, CHUNK // max(1, int(np.prod(shape[1:]))))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
