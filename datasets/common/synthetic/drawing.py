"""Drawing on stacks of pictures: coordinates, soft shapes, paint, noise and sensor holes.

Every function works on N pictures at once. A field is an (N, S, S) array over the square
[-1, 1]^2, x to the right and y downwards; scalars per picture are (N,) arrays.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def column(values: Array | float) -> Array:
    """Returns per-picture scalars (N,) as (N, 1, 1), to be combined with fields."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def grid(size: int) -> tuple[Array, Array]:
    """Returns the pixel centres x and y, each (1, size, size)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x[None], y[None]


def fade(evidence: Array) -> Array:
    """Maps evidence x in (-inf, inf) to a share in (0, 1), falling: 1 / (1 + e^(0.6 x))."""
    return (1 / (1 + np.exp(0.6 * evidence))).astype(np.float32)


def ellipse(x: Array, y: Array, width: Array | float, height: Array | float, edge: float) -> Array:
    """Returns the coverage in [0, 1] of an ellipse at the origin with these half axes.

    Args:
        x: Horizontal coordinates relative to the centre.
        y: Vertical ones.
        width: Half axis, a number or (N, 1, 1).
        height: Half axis, a number or (N, 1, 1).
        edge: Width of the soft border as a share of the half axes.
    """
    return np.clip((1 - np.sqrt((x / width) ** 2 + (y / height) ** 2)) / edge + 0.5, 0, 1)


def rectangle(x: Array, y: Array, width: Array | float, height: Array | float) -> Array:
    """Returns the hard mask (bool) of a rectangle at the origin with these half sides."""
    return (np.abs(x) <= width) & (np.abs(y) <= height)


def border(mask: Array) -> Array:
    """Returns the pixels of a mask (N, S, S) bool that have a neighbour outside it."""
    core = mask.copy()
    for axis in (1, 2):
        core &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~core


def paint(picture: Array, coverage: Array, colour: Array) -> None:
    """Lays a colour over pictures in place.

    Args:
        picture: (N, 3, S, S).
        coverage: (N, S, S) in [0, 1].
        colour: (N, 3), or (N, 3, S, S) for one that varies over the picture.
    """
    shape = colour.shape if colour.ndim == 4 else (*colour.shape, 1, 1)
    picture += coverage[:, None] * (colour.astype(np.float32).reshape(shape) - picture)


def clouds(rng: np.random.Generator, count: int, size: int, cells: int) -> Array:
    """Returns smooth noise of about unit variance, (count, size, size), with `cells`^2 bumps."""
    knots = rng.standard_normal((count, cells + 1, cells + 1), dtype=np.float32)
    position = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    hats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells + 1, dtype=np.float32)))
    hats /= np.sqrt((hats**2).sum(1, keepdims=True))
    return hats @ knots @ hats.T


def grain(rng: np.random.Generator, shape: tuple[int, ...], level: Array) -> Array:
    """Returns white pixel noise of a standard deviation per picture; level is (N,)."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    return noise * np.asarray(level, np.float32).reshape(-1, *[1] * (len(shape) - 1))
