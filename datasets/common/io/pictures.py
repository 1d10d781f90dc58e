"""Image files as the pixels that they hold: upright, whole, and with all their bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps

from benchmark.errors import UserError

ORIENTATION = 0x0112
"""EXIF tag of how a stored picture must be turned to be upright; from 5 on, its sides change."""

SAMPLE_FORMAT = 339
"""TIFF tag of the numbers: 1 for unsigned ones, which is what applies without it, 2 for signed."""

EXACT = ('PNG', 'TIFF', 'BMP')
"""Formats of label maps, as Pillow names them. A TIFF file may hold JPEG all the same."""


def opened(path: Path, size: tuple[int, int] | None = None) -> ImageFile.ImageFile:
    """Opens an image file; its pixels are decoded later, when they are read.

    Args:
        path: The file.
        size: (H, W) that the upright image must have; None accepts every size.

    Raises:
        UserError: The image has another size, several pages, or colours of more than 8 bits a
            channel, of which Pillow would drop the lower ones.
        OSError: The file is missing or no image. Reading pixels of a truncated file raises it too.
    """
    image = Image.open(path)
    # A photo in the format MPO holds, beside its picture, smaller previews of it.
    pages = 1 if image.format == 'MPO' else getattr(image, 'n_frames', 1)
    if pages > 1:
        raise UserError(
            f'{path}: expected one page, found {pages}; an .npy file can hold them as channels'
        )
    if ';16' in _stored(image) and not image.mode.startswith(('I', 'F')):
        raise UserError(
            f'{path}: expected at most 8 bits per channel of colours, found 16; an .npy file is '
            'read in full'
        )
    if size is not None and upright_size(image) != size:
        found = 'x'.join(map(str, upright_size(image)))
        raise UserError(f'{path}: expected {size[0]}x{size[1]} pixels, found {found}')
    return image


def _stored(image: Image.Image) -> str:
    """Returns Pillow's name of the stored pixels, e.g. 'RGB;16B', which `mode` may shorten."""
    for tile in getattr(image, 'tile', []):
        stored = tile[3]
        return str(stored[0] if isinstance(stored, tuple) and stored else stored)
    return ''


def turned(image: Image.Image) -> bool:
    """Returns whether height and width change places when the image is turned upright."""
    return int(image.getexif().get(ORIENTATION, 1)) in range(5, 9)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns (H, W) of the upright image."""
    width, height = image.size
    return (width, height) if turned(image) else (height, width)


def upright(image: Image.Image) -> Image.Image:
    """Returns the image as viewers show it: turned and mirrored as its EXIF orientation says."""
    if int(image.getexif().get(ORIENTATION, 1)) in range(2, 9):
        return ImageOps.exif_transpose(image)
    return image


def _numbers(image: Image.Image, values: np.ndarray) -> np.ndarray:
    """Returns pixels with the sign of their file.

    Pillow takes unsigned numbers of 32 bits in a TIFF file for signed ones, and signed numbers of
    8 bits for unsigned ones.

    Args:
        image: The image as it was opened.
        values: Its pixels, as Pillow gives them.
    """
    if image.format != 'TIFF':
        return values
    signed = {int(k) for k in np.ravel(image.tag_v2.get(SAMPLE_FORMAT, 1))}  # type: ignore[attr-defined]
    if values.dtype == np.int32 and signed == {1}:
        return values.view(np.uint32)
    return values.view(np.int8) if values.dtype == np.uint8 and signed == {2} else values


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


def pixels(path: Path) -> np.ndarray:
    """Returns all that an image file holds: (H, W), or (H, W, C) with its colours and its opacity.

    The colours of a palette take the place of its indices, and an opacity that the file holds
    beside the pixels becomes a channel. CMYK stays as it is, four channels.

    Raises:
        UserError: The file cannot be read in full (`opened`), or names the grey value that is
            transparent in pixels of other than 8 bits, which Pillow would not find.
        OSError: The file is missing, is no image, or is truncated.
    """
    with opened(path) as image:
        opaque = 'transparency' not in image.info and image.mode != 'PA'
        coloured = image.mode in ('P', 'PA', 'RGB')
        if not (opaque or coloured or (image.mode == 'L' and ';' not in _stored(image))):
            raise UserError(
                f'{path}: expected a transparent grey value in pixels of 8 bits alone, found '
                f'{_stored(image)}; an .npy file can hold the opacity as a channel'
            )
        if coloured:
            mode = 'RGB' if opaque else 'RGBA'
        else:
            mode = image.mode if opaque or image.mode != 'L' else 'LA'
        values = np.asarray(upright(image if image.mode == mode else image.convert(mode)))
        return _numbers(image, values)


def _check_exact(path: Path, image: Image.Image) -> None:
    """Checks that the format of an image keeps every number as it was written.

    Raises:
        UserError: It may be one whose compression changes labels along edges, such as JPEG.
    """
    how = str(image.info.get('compression', ''))
    if image.format in EXACT and not any(lossy in how for lossy in ('jpeg', 'webp')):
        return
    inside = f'{image.format} with the compression {how}' if image.format in EXACT else image.format
    raise UserError(
        f'{path}: expected labels in the format {", ".join(EXACT)}, without loss, found the '
        f'content {inside}, which may have changed labels along edges'
    )


def labels(path: Path, source: tuple[int, int] | None = None, first: bool = False) -> Image.Image:
    """Returns a label image in memory, in which every pixel is a label of 8 or of 16 bits.

    Of an image with a palette, the indices are the labels.

    Args:
        path: The file.
        source: (H, W) that the image must have; None accepts every size.
        first: Whether the first channel of an image in colours holds the labels.

    Raises:
        UserError: The format of the content, whatever its name says, may have changed labels; or
            the image has several channels, another size, or labels that are not 0 to 65535.
        OSError: The file is missing, is no image, or is truncated.
    """
    with opened(path, source) as image:
        _check_exact(path, image)
        if first and image.mode in ('RGB', 'RGBA'):
            return upright(image).getchannel(0)
        if image.mode not in ('1', 'L', 'P') and not image.mode.startswith('I'):
            raise UserError(
                f'{path}: expected one channel of whole numbers, the labels, found mode '
                f'{image.mode!r}'
            )
        raw = _stored(image)
        values = _numbers(image, np.asarray(upright(image)))
    # Pillow stretches grey values of 2 and 4 bits to 0 to 255.
    values = values // {'L;2': 85, 'L;4': 17}.get(raw[:3], 1)
    if values.min() < 0 or values.max() > 65535:
        found = values.min() if values.min() < 0 else values.max()
        raise UserError(f'{path}: expected labels 0 to 65535, found {found}')
    # Pillow resizes 32 bits and 8, but not 16.
    return Image.fromarray(values.astype(np.uint8 if values.max() <= 255 else np.int32))
