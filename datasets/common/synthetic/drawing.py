"""Drawing of synthetic pictures: coordinates, shapes, paint and noise.

Every function draws on N pictures of S x S pixels at once. A field is an array (N, S, S) over the
square [-1, 1]^2, in which x points to the right and y downwards. An array (N,) holds one number per
picture.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def column(values: Array | float) -> Array:
    """Returns one number per picture (N,) as (N, 1, 1) float32, which broadcasts to fields."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def grid(size: int) -> tuple[Array, Array]:
    """Returns the pixel centres x and y, each (1, size, size)."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    return x[None], y[None]


def fade(evidence: Array) -> Array:
    """Returns 1 / (1 + e^(0.6 x)) of evidence x: a share that falls from 1 to 0."""
    return (1 / (1 + np.exp(0.6 * evidence))).astype(np.float32)


def ellipse(x: Array, y: Array, width: Array | float, height: Array | float, edge: float) -> Array:
    """Returns how much of each pixel an ellipse about the origin covers, in [0, 1].

    Args:
        x: Horizontal coordinates relative to the centre of the ellipse.
        y: Vertical coordinates relative to it.
        width: Horizontal half axis, a number or (N, 1, 1).
        height: Vertical half axis, a number or (N, 1, 1).
        edge: Width of the soft border as a share of the half axes.
    """
    return np.clip((1 - np.sqrt((x / width) ** 2 + (y / height) ** 2)) / edge + 0.5, 0, 1)


def rectangle(x: Array, y: Array, width: Array | float, height: Array | float) -> Array:
    """Returns the mask (bool) of a rectangle about the origin.

    Args:
        x: Horizontal coordinates relative to the centre of the rectangle.
        y: Vertical coordinates relative to it.
        width: Half of the width, a number or (N, 1, 1).
        height: Half of the height, a number or (N, 1, 1).
    """
    return (np.abs(x) <= width) & (np.abs(y) <= height)


def border(mask: Array) -> Array:
    """Returns the pixels of masks (N, S, S) bool that have a neighbour outside the mask."""
    core = mask.copy()
    for axis in (1, 2):
        core &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
    return mask & ~core


def paint(picture: Array, coverage: Array, colour: Array) -> None:
    """Mixes a colour into pictures, in place.

    Args:
        picture: The pictures (N, 3, S, S).
        coverage: (N, S, S), the share of the colour in each pixel, in [0, 1].
        colour: (N, 3), or (N, 3, S, S) if the colour varies over the picture.
    """
    shape = colour.shape if colour.ndim == 4 else (*colour.shape, 1, 1)
    picture += coverage[:, None] * (colour.astype(np.float32).reshape(shape) - picture)


def clouds(rng: np.random.Generator, count: int, size: int, cells: int) -> Array:
    """Returns smooth noise (count, size, size) of about unit variance.

    The noise interpolates between independent normal numbers at the corners of a grid.

    Args:
        rng: Source of randomness.
        count: Number of pictures.
        size: Side of a picture in pixels.
        cells: Number of grid cells along each side: the noise has about `cells`^2 bumps.
    """
    knots = rng.standard_normal((count, cells + 1, cells + 1), dtype=np.float32)
    position = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    hats = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells + 1, dtype=np.float32)))
    hats /= np.sqrt((hats**2).sum(1, keepdims=True))
    return hats @ knots @ hats.T


def grain(rng: np.random.Generator, shape: tuple[int, ...], level: Array) -> Array:
    """Returns white normal noise for every pixel.

    Args:
        rng: Source of randomness.
        shape: Shape of the result, (N, ...).
        level: (N,), the standard deviation for each picture.
    """
    noise = rng.standard_normal(shape, dtype=np.float32)
    return noise * np.asarray(level, np.float32).reshape(-1, *[1] * (len(shape) - 1))
