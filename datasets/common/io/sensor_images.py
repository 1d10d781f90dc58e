"""Decoders of images that stand for sensors other than cameras, and of their label maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmark.errors import UserError
from datasets.common.io.files import Decoder, decoded
from datasets.common.io.images import LabelFile, Scaled
from datasets.common.io.pictures import labels, opened, resized, upright, upright_size
from datasets.common.io.remembered import remembered
from datasets.common.io.rows import spread

VERSION = 1
"""Raised when `scaled_by` finds something else in the same files."""

Size = tuple[int, int]


class Colours8:
    """Decodes an image of 8 bits a channel into (3, H, W).

    An opacity is left out, and the values of a grey image are repeated.

    Args:
        size: (H, W) to which the image is resized, bilinearly.
        sources: The (H, W) that the image in the file may have. An image of another size than the
            first one is brought to it first; every pixel then takes the nearest value.
    """

    dtype = np.uint8

    def __init__(self, size: Size, sources: Sequence[Size]) -> None:
        self.size, self.sources = size, tuple(sources)

    def __repr__(self) -> str:
        return f'Colours8({self.size}, {self.sources})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the image, uint8 (3, H, W).

        Raises:
            UserError: The image has another size, more than 8 bits a channel or other colours.
        """
        with opened(path) as image:
            if upright_size(image) not in self.sources:
                known = ' or '.join(f'{h}x{w}' for h, w in self.sources)
                found = 'x'.join(map(str, upright_size(image)))
                raise UserError(f'{path}: expected {known} pixels, found {found}')
            if image.mode not in ('L', 'P', 'RGB', 'RGBA'):
                raise UserError(
                    f'{path}: expected grey or colours of 8 bits a channel, found mode '
                    f'{image.mode!r}'
                )
            whole = resized(upright(image).convert('RGB'), self.sources[0], nearest=True)
            return np.asarray(resized(whole, self.size)).transpose(2, 0, 1)


class FirstChannel(LabelFile):
    """Decodes a label image whose first channel holds the labels; see `LabelFile`."""

    def __repr__(self) -> str:
        return f'FirstChannel({super().__repr__()})'

    def _image(self, path: Path) -> Image.Image:
        return labels(path, self.source, first=True)


class Projection:
    """Decodes measurements that were projected into a camera's image into float32 (3, H, W).

    The formats are those of the development kit of MUSES: an .npz file with one array (H, W, 3), an
    .npy file with that array, or a PNG file, which holds (value + shift) x factor in 16 bits. Where
    nothing was measured the values are 0.

    Args:
        size: (H, W) to which the image is resized. Every pixel takes the nearest value.
        source: (H, W) of the file.
        shift: What is subtracted from the values of a PNG file at last.
        factor: What they are divided by before; 1 stands for a file that holds counts as they are.
    """

    dtype = np.float32

    def __init__(self, size: Size, source: Size, shift: float = 0.0, factor: float = 1.0) -> None:
        self.size, self.source, self.shift, self.factor = size, source, shift, factor

    def __repr__(self) -> str:
        return f'Projection({self.size}, {self.source}, {self.shift}, {self.factor})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns float32 (3, H, W).

        Raises:
            UserError: The file holds an array of another kind or shape, or numbers that are not
                finite.
        """
        found = self._stored(path)
        if found.shape != (*self.source, 3) or found.dtype.kind not in 'fiu':
            expected = f'numbers {(*self.source, 3)}'
            raise UserError(f'{path}: expected {expected}, found {found.dtype} {found.shape}')
        values = found.astype(np.float32)
        if path.suffix == '.png':
            values = values / np.float32(self.factor) - np.float32(self.shift)
        if not np.isfinite(values).all():
            raise UserError(f'{path}: expected finite numbers, found others')
        planes = [Image.fromarray(np.ascontiguousarray(values[..., k])) for k in range(3)]
        return np.stack([np.asarray(resized(p, self.size, nearest=True)) for p in planes])

    def _stored(self, path: Path) -> np.ndarray:
        if path.suffix == '.png':
            # Pillow drops the lower bits of 16; the kit writes and reads the files with OpenCV,
            # which keeps the order of the channels.
            content = np.frombuffer(path.read_bytes(), np.uint8)
            image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if content.size else None
            if image is None:
                raise UserError(f'{path}: cannot be read, broken or no PNG file')
            bits = np.uint8 if self.factor == 1 else np.uint16
            if image.dtype != bits:
                raise UserError(f'{path}: expected numbers of type {bits.__name__}, found '
                                f'{image.dtype}')  # fmt: skip
            return np.asarray(image)
        if path.suffix == '.npy':
            return np.asarray(np.load(path, allow_pickle=False))
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise UserError(f'{path}: expected one array, found {len(arrays.files)}')
            return np.asarray(arrays[arrays.files[0]])


def scaled_by(paths: Sequence[Path], decode: Decoder) -> Scaled:
    """Returns the normalisation by the mean and standard deviation of each channel of some images.

    All pixels count, as in the development kit of MUSES, also those of value 0 at which nothing was
    measured. The images are decoded once, and what was found is remembered.

    Args:
        paths: The images, all of one size.
        decode: Their decoder; its `repr` tells everything on which its result depends.

    Raises:
        UserError: A file is missing or broken.
    """

    def look(path: Path) -> str:
        values = decoded(path, decode).astype(np.float64)
        return json.dumps([values.mean((1, 2)).tolist(), values.var((1, 2)).tolist()])

    found = [json.loads(text) for text in remembered(f'moments {VERSION} {decode!r}', paths, look)]
    means, variances = np.array(found).transpose(1, 0, 2)
    # Of images of one size: the variance of all pixels is that within and that between images.
    mean, std = means.mean(0), np.sqrt(variances.mean(0) + means.var(0))
    return Scaled(mean, spread(mean, std, np.dtype(np.float32)))
