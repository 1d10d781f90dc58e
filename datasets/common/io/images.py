"""Decoders of image files, normalisation of their values, and helpers for image sizes."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from benchmark.errors import UserError
from datasets.common.io.pictures import labels, opened, resized, turned, upright
from datasets.common.io.rows import facts_of, moments_of, working

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of red, green and blue in ImageNet, for values in [0, 1]."""
LARGEST_SIDE = 8192
"""Pixels of the longest side of an image; a square of colours takes 805 MB as float32."""


class ImageFile8:
    """Decodes an image of 8 bits per channel into (3, H, W) or, with `grey`, (1, H, W).

    Args:
        size: (H, W) to which the image is resized, bilinearly.
        grey: Converts the image to one grey channel.
        source: (H, W) that the image in the file must have; None accepts every size.
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
        return f'ImageFile8({self.size}, {self.grey}, {self.source})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the image, uint8 (C, H, W).

        Raises:
            UserError: The image has more than 8 bits per channel, an opacity, other colours than
                red, green and blue, such as CMYK, or another size than `source`.
        """
        with opened(path, self.source) as image:
            if image.mode.startswith(('I', 'F')):
                raise UserError(f'{path}: expected 8 bits a channel, found mode {image.mode}')
            if image.mode not in ('1', 'L', 'P', 'RGB') or 'transparency' in image.info:
                opacity = ' with transparency' if 'transparency' in image.info else ''
                raise UserError(
                    f'{path}: expected red, green and blue or grey without opacity, found mode '
                    f'{image.mode!r}{opacity}'
                )
            mode = 'L' if self.grey else 'RGB'
            # A JPEG file is decoded at the smallest scale that is not below `size`: this is faster.
            image.draft(mode, self.size if turned(image) else self.size[::-1])
            values = np.asarray(resized(upright(image).convert(mode), self.size))
        return values[None] if self.grey else values.transpose(2, 0, 1)


class DepthFile16:
    """Decodes a PNG file with one channel of 16 bits into its raw integers (1, H, W).

    Args:
        size: (H, W) to which the image is resized. Every pixel takes the nearest value, because a
            mean of two depths is the depth of neither surface.
        source: (H, W) that the image in the file must have; None accepts every size.
    """

    dtype = np.uint16

    def __init__(self, size: tuple[int, int], source: tuple[int, int] | None = None) -> None:
        self.size, self.source = size, source

    def __repr__(self) -> str:
        return f'DepthFile16({self.size}, {self.source})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the depth image, uint16 (1, H, W), in the units of the file.

        Raises:
            UserError: The image has 8 bits, several channels, or another size than `source`.
        """
        with opened(path, self.source) as image:
            if not image.mode.startswith('I'):
                raise UserError(
                    f'{path}: expected 16-bit depth in one channel, found mode {image.mode!r}'
                )
            values = np.asarray(upright(image)).astype(np.int32)
        # Pillow reads a 32-bit file under the mode of a 16-bit one.
        if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
            raise UserError(f'{path}: expected 16-bit depth, 0 to 65535, found {values.max()}')
        depth = Image.fromarray(values, 'I')
        return np.asarray(resized(depth, self.size, nearest=True)).astype(np.uint16)[None]


class DepthArray:
    """Decodes a .npy file of metres into float32 (1, H, W); errors and holes become 0.

    Args:
        size: (H, W) to which it is resized, to the nearest pixel.
        source: (H, W) that the array in the file must have.
        farthest: Greater depths, in metres, and numbers that are not finite are errors.
    """

    dtype = np.float32

    def __init__(self, size: tuple[int, int], source: tuple[int, int], farthest: float) -> None:
        self.size, self.source, self.farthest = size, source, farthest

    def __repr__(self) -> str:
        return f'DepthArray({self.size}, {self.source}, {self.farthest})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns float32 (1, H, W).

        Raises:
            UserError: The array is of another size or type.
        """
        metres = np.load(path, allow_pickle=False)
        if metres.shape != self.source or metres.dtype.kind != 'f':
            expected = f'float {self.source}'
            raise UserError(f'{path}: expected {expected}, found {metres.dtype} {metres.shape}')
        metres = metres.astype(np.float32)
        # A comparison with NaN is false, and infinity has a sign.
        valid = np.isfinite(metres) & (metres <= self.farthest)
        image = Image.fromarray(np.where(valid, metres, 0))
        return np.asarray(resized(image, self.size, nearest=True))[None]


class LabelFile:
    """Decodes a label image into a label map (H, W): class indices, and what is ignored.

    That is 255 for at most 255 classes, and -1 for more.

    Args:
        size: (H, W) to which the map is resized; every pixel takes the nearest label.
        classes: Number of classes K.
        table: Class indices, one for each value in the file from 0 to 255 or to 65535; numbers that
            are neither a class nor ignored are not expected there. By default, the values in the
            file are the class indices, and 255 is ignored.
        source: (H, W) that the image in the file must have; None accepts every size.
    """

    dtype: type[np.generic]

    def __init__(
        self,
        size: tuple[int, int],
        classes: int,
        table: Sequence[int] | None = None,
        source: tuple[int, int] | None = None,
    ) -> None:
        self.size, self.classes, self.source = size, classes, source
        self.table = np.arange(256) if table is None else np.asarray(table)
        self.ignored = 255 if classes <= 255 else -1
        self.dtype = np.uint8 if classes <= 255 else np.int32

    def __repr__(self) -> str:
        table = self.table.tolist() if len(self.table) <= 256 else zlib.crc32(self.table.tobytes())
        return f'LabelFile({self.size}, {self.classes}, {table}, {self.source})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the label map (H, W), uint8 for at most 255 classes.

        Raises:
            UserError: The image has several channels, has another size than `source`, or contains
                a label that is out of range.
        """
        values = np.asarray(resized(self._image(path), self.size, nearest=True))
        inside = values < len(self.table)
        found = self.table[np.where(inside, values, 0)]
        known = (found >= 0) & (found < self.classes) | (found == self.ignored)
        if (wrong := ~(inside & known)).any():
            known = (self.table >= 0) & (self.table < self.classes) | (self.table == self.ignored)
            raise UserError(
                f'{path}: expected labels {spans(np.flatnonzero(known).tolist())}, '
                f'found {int(values[wrong][0])}'
            )
        return found.astype(self.dtype)

    def _image(self, path: Path) -> Image.Image:
        return labels(path, self.source)


def spans(numbers: Sequence[int]) -> str:
    """Returns ascending whole numbers as text with their runs shortened, e.g. '0 to 3, 255'."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ', '.join(' to '.join(map(str, part)) for part in parts)


class Scaled:
    """Normalises decoded images: (x - mean) / std for every channel.

    Args:
        mean: One number per channel, or one for all channels.
        std: Standard deviation, likewise.
        hole: The value of pixels at which nothing was measured, as in depth images. They become 0,
            which is the mean after normalisation. None: there are no such pixels.
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike, hole: float | None = None) -> None:
        self.mean, self.std = _channels(mean), _channels(std)
        self.hole = hole

    @property
    def facts(self) -> dict[str, Any]:
        """The normalisation as `benchmark.dataset.Preparation` holds it."""
        hole = {} if self.hole is None else {'hole': float(self.hole)}
        return {**facts_of(self.mean, self.std), **hole}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Scaled:
        """Returns the normalisation whose `facts` these are."""
        return cls(*moments_of(facts), facts.get('hole'))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Returns the normalised images (n, C, H, W), float32."""
        kind = working(rows.dtype)
        values = (rows.astype(kind) - self.mean.astype(kind)) / self.std.astype(kind)
        values = values.astype(np.float32, copy=False)
        if self.hole is not None:
            values[rows == self.hole] = 0
        return values


def _channels(value: ArrayLike) -> np.ndarray:
    return np.asarray(value, np.float64).reshape(-1, 1, 1)


def image_size(where: str, given: str) -> tuple[int, int]:
    """Parses an image size such as '480x640' into (H, W) in pixels.

    Args:
        where: Name of the data set, for the message.
        given: The option `size`, height first.

    Raises:
        UserError: The text has another form, a side is too large (`image_side`), or it is not a
            multiple of 32, which the encoders need because they halve their input five times.
    """
    found = re.fullmatch(r'([0-9]{1,20})x([0-9]{1,20})', given)
    sides = [int(side) for side in found.groups()] if found else [0]
    if min(sides) < 32 or any(s % 32 for s in sides):
        raise UserError(f'{where}:size: expected HxW in multiples of 32, found {given!r}')
    return image_side(where, sides[0]), image_side(where, sides[1])


def image_side(where: str, side: int) -> int:
    """Returns the side of an image in pixels if an image of that side fits into memory.

    Args:
        where: Name of the data set, for the message.
        side: A side that the option `size` gives.

    Raises:
        UserError: The side is below 1 or above `LARGEST_SIDE`.
    """
    if not 1 <= side <= LARGEST_SIDE:
        raise UserError(f'{where}:size: expected 1 to {LARGEST_SIDE} pixels a side, found {side}')
    return side


def encoded(values: np.ndarray) -> bytes:
    """Returns the bytes of a PNG file of an image: uint8 (H, W, 3) or (H, W), or uint16 (H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, 'PNG')
    return buffer.getvalue()
