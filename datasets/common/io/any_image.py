"""Images with any number of channels and bits, from image files and .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from PIL import Image

from benchmark.errors import UserError
from datasets.common.io.layouts import Layout, layout_of
from datasets.common.io.pictures import pixels, resized
from datasets.common.io.row_contents import EXACT, readable
from datasets.common.io.rows import working


class AnyImage:
    """Decodes an image file or an .npy file into (C, H, W), with all its channels and bits.

    Args:
        size: (H, W) to which the image is resized; None keeps its size.
        nearest: Every pixel takes the nearest value instead of an interpolated one, as depth images
            with holes need.
        layout: Which axis of an .npy file of three axes holds the channels.
        dtype: Type of the result, float32 or float64; numbers that float32 would round are decoded
            as float64 whatever it is.
    """

    def __init__(
        self,
        size: tuple[int, int] | None,
        nearest: bool = False,
        layout: Layout = '',
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.size, self.nearest, self.layout = size, nearest, layout
        self.dtype = np.dtype(dtype)

    def __repr__(self) -> str:
        return f'AnyImage({self.size}, {self.nearest}, {self.layout!r}, {self.dtype})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the image (C, H, W).

        Raises:
            UserError: The file does not hold finite numbers of shape (H, W), (H, W, C) or
                (C, H, W), it is not clear which axis of it holds the channels, or its numbers are
                not `row_contents.readable`.
        """
        values = self.checked(path, self.stored(path))
        if self.size is None or self.size == values.shape[1:]:
            return values
        if self.nearest:
            places = np.arange(values[0].size, dtype=np.int32).reshape(values.shape[1:])
            chosen = np.asarray(resized(Image.fromarray(places), self.size, nearest=True))
            return values.reshape(len(values), -1)[:, chosen]
        return np.stack([_interpolated(channel, self.size) for channel in values])

    def checked(self, path: Path, values: np.ndarray) -> np.ndarray:
        """Returns stored numbers as floats that hold them.

        Raises:
            UserError: They are not `row_contents.readable`.
        """
        bad = ~readable(values)
        if bad.any() and values.dtype.kind in 'iu':
            raise UserError(f'{path}: expected whole numbers up to {EXACT}, found larger ones')
        if bad.any():
            raise UserError(
                f'{path}: expected finite numbers of float32, found NaN, infinity or larger ones '
                f'in {bad.sum()} of {bad.size} values; write 0 or another number where nothing was '
                'measured'
            )
        return values.astype(np.promote_types(self.dtype, working(values.dtype)))

    def stored(self, path: Path) -> np.ndarray:
        """Returns the numbers (C, H, W) that a file holds, of their own type.

        Raises:
            UserError: They are no image, or it is not clear which axis holds the channels.
        """
        array = path.suffix.lower() == '.npy'
        values = read_array(path) if array else pixels(path)
        numbers = values.dtype.kind in 'fiub' and values.size
        if values.ndim not in (2, 3) or not numbers:
            raise UserError(f'{path}: expected an image, found {values.dtype} {values.shape}')
        if values.ndim == 2:
            return values[None]
        layout = (self.layout or layout_of(values.shape)) if array else 'channels_last'
        if not layout:
            raise UserError(
                f'{path}: expected channels in the first or last axis, found {values.shape}, which '
                'leaves it open; use layout=channels_first or layout=channels_last'
            )
        return values.transpose(2, 0, 1) if layout == 'channels_last' else values


def _interpolated(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns a channel (H, W) at another size."""
    # Pillow computes in single precision, in which small differences of large numbers are lost.
    base = channel.min() if channel.dtype == np.float64 else np.float32(0)
    small = Image.fromarray((channel - base).astype(np.float32))
    return np.asarray(resized(small, size)) + base


def read_array(path: Path) -> np.ndarray:
    """Returns the one array of an .npy file.

    Raises:
        UserError: Something lies behind the array, which would be lost.
        ValueError: It is no such file, or holds objects.
    """
    with path.open('rb') as file:
        values = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise UserError(f'{path}: expected one array, found more behind it')
    return values
