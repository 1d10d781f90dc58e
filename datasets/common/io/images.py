"""Decoders of image files, and how decoded values are normalised."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageFile

from benchmark.errors import UserError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and deviation of each channel, of values in [0, 1]."""


class ImageFile8:
    """Decodes an 8-bit image into (3, H, W) or, for grey ones, (1, H, W).

    Args:
        size: (H, W) to which it is resized, bilinearly.
        grey: One channel instead of three.
        source: (H, W) that the file must have; None takes any.
    """

    dtype = np.uint8

    def __init__(
        self,
        size: tuple[int, int],
        grey: bool = False,
        source: tuple[int, int] | None = None,
    ) -> None:
        self.size, self.grey, self.source = size, grey, source

    def __repr__(self) -> str:
        return f'ImageFile8({self.size}, {self.grey})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns uint8 (C, H, W).

        Raises:
            UserError: The image has more than 8 bits a channel.
        """
        with opened(path, self.source) as image:
            if image.mode.startswith(('I', 'F')):
                raise UserError(f'{path}: expected 8 bits a channel, found mode {image.mode}')
            mode = 'L' if self.grey else 'RGB'
            # JPEGs are decoded at the smallest scale that still holds `size`.
            image.draft(mode, self.size[::-1])
            values = np.asarray(resized(image.convert(mode), self.size))
        return values[None] if self.grey else values.transpose(2, 0, 1)


class DepthFile16:
    """Decodes a 16-bit single-channel PNG into (1, H, W) of raw integers.

    Args:
        size: (H, W) to which it is resized, to the nearest pixel: depths are never mixed.
        source: (H, W) that the file must have; None takes any.
    """

    dtype = np.uint16

    def __init__(self, size: tuple[int, int], source: tuple[int, int] | None = None) -> None:
        self.size, self.source = size, source

    def __repr__(self) -> str:
        return f'DepthFile16({self.size})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns uint16 (1, H, W).

        Raises:
            UserError: The image has 8 bits or several channels.
        """
        with opened(path, self.source) as image:
            if not image.mode.startswith('I'):
                raise UserError(
                    f'{path}: expected 16-bit depth in one channel, found mode {image.mode!r}'
                )
            depth = Image.fromarray(np.asarray(image).astype(np.int32), 'I')
            return np.asarray(resized(depth, self.size, nearest=True)).astype(np.uint16)[None]


class LabelFile:
    """Decodes an 8-bit label image into (H, W) of class indices, 255 being ignored.

    Args:
        size: (H, W) of the label map, resized to the nearest pixel.
        classes: K.
        table: 256 class indices, one per value in the file; the values themselves by default.
        source: (H, W) that the file must have; None takes any.
    """

    dtype = np.uint8

    def __init__(
        self,
        size: tuple[int, int],
        classes: int,
        table: Sequence[int] | None = None,
        source: tuple[int, int] | None = None,
    ) -> None:
        self.size, self.classes, self.source = size, classes, source
        self.table = np.arange(256) if table is None else np.asarray(table)

    def __repr__(self) -> str:
        return f'LabelFile({self.size}, {self.classes}, {self.table.tolist()})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns uint8 (H, W).

        Raises:
            UserError: The image is no label map, or a label is out of range.
        """
        with opened(path, self.source) as image:
            if image.mode not in ('L', 'P'):
                raise UserError(f'{path}: expected 8-bit labels, found mode {image.mode!r}')
            values = np.asarray(resized(image, self.size, nearest=True))
        found = self.table[values]
        wrong = (found >= self.classes) & (found != 255) | (found < 0)
        if wrong.any():
            known = [k for k, c in enumerate(self.table) if 0 <= c < self.classes or c == 255]
            raise UserError(
                f'{path}: expected labels {spans(known)}, found {int(values[wrong][0])}'
            )
        return found.astype(np.uint8)


def spans(numbers: Sequence[int]) -> str:
    """Tells ascending whole numbers in words: '0 to 3, 255'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ', '.join(' to '.join(map(str, part)) for part in parts)


def opened(path: Path, size: tuple[int, int] | None = None) -> ImageFile.ImageFile:
    """Opens an image; reading its pixels raises if the file is truncated.

    Args:
        path: The file.
        size: (H, W) that it must have; None takes any.

    Raises:
        UserError: It has another size.
    """
    image = Image.open(path)
    if size is not None and image.size != size[::-1]:
        found = 'x'.join(map(str, image.size[::-1]))
        raise UserError(f'{path}: expected {size[0]}x{size[1]} pixels, found {found}')
    return image


def resized(image: Image.Image, size: tuple[int, int], nearest: bool = False) -> Image.Image:
    """Returns an image at another size; the image itself if it has that size already.

    Args:
        image: The image.
        size: (H, W) of the result.
        nearest: Every pixel takes the nearest value; otherwise values are interpolated bilinearly.
    """
    if image.size == size[::-1]:
        return image
    how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return image.resize(size[::-1], how)


class Scaled:
    """Normalises decoded rows: (x - mean) / std per channel, in float32.

    Args:
        mean: Per channel, or one number.
        std: Likewise.
        hole: A value that means 'nothing measured' and becomes 0, as in depth images.
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike, hole: float | None = None) -> None:
        self.mean, self.std = _channels(mean), _channels(std)
        self.hole = hole

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns (n, C, H, W) float32."""
        values = (rows.astype(np.float32) - self.mean) / self.std
        if self.hole is not None:
            values[rows == self.hole] = 0
        return values


def _channels(value: ArrayLike) -> np.ndarray:
    return np.asarray(value, np.float32).reshape(-1, 1, 1)


class Pixels:
    """Reads an image file or a .npy array as it is.

    Args:
        colours: Looks up the colours of a palette; else its indices are the values, as in labels.
    """

    dtype = None

    def __init__(self, colours: bool = True) -> None:
        self.modes = ('P', 'CMYK') if colours else ()

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the file's array, (H, W) or (H, W, C) in image files."""
        if path.suffix.lower() == '.npy':
            return np.load(path, allow_pickle=False)
        with opened(path) as image:
            return np.asarray(image.convert('RGB') if image.mode in self.modes else image)


class AnyImage:
    """Decodes an image file or a .npy array into float32 (C, H, W).

    Args:
        size: (H, W) it is resized to; None leaves it.
        nearest: Resizes to the nearest pixel, as depth with holes wants.
    """

    dtype = np.float32

    def __init__(self, size: tuple[int, int] | None, nearest: bool = False) -> None:
        self.size, self.nearest = size, nearest

    def __repr__(self) -> str:
        return f'AnyImage({self.size}, {self.nearest})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns float32 (C, H, W).

        Raises:
            UserError: It is no array (H, W), (H, W, C) or (C, H, W) of numbers.
        """
        values = Pixels()(path)
        if values.ndim == 2:
            values = values[None]
        elif values.ndim == 3 and values.shape[2] < min(values.shape[:2]):
            values = values.transpose(2, 0, 1)
        if values.ndim != 3 or values.dtype.kind not in 'fiub':
            raise UserError(f'{path}: expected an image, found {values.dtype} {values.shape}')
        values = values.astype(np.float32)
        if self.size is None or self.size == values.shape[1:]:
            return values
        channels = [resized(Image.fromarray(c), self.size, self.nearest) for c in values]
        return np.stack([np.asarray(channel) for channel in channels])


def image_size(where: str, given: str) -> tuple[int, int]:
    """Reads 'HxW'.

    Raises:
        UserError: It is none, or not divisible by 32, which the encoders' strides need.
    """
    height, _, width = given.partition('x')
    sides = [int(s) if s.isdigit() else 0 for s in (height, width)]
    if min(sides) < 32 or any(s % 32 for s in sides):
        raise UserError(f'{where}:size: expected HxW in multiples of 32, found {given!r}')
    return sides[0], sides[1]


def encoded(values: np.ndarray) -> bytes:
    """Returns a PNG file of (H, W, 3) or (H, W) values of 8 or 16 bits."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, 'PNG')
    return buffer.getvalue()
