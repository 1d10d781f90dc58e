"""Photos from the web, which come in every format and are sometimes cut off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmark.errors import UserError
from datasets.common.io.files import decoded
from datasets.common.io.pictures import upright
from datasets.common.io.remembered import remembered

VERSION = 1
"""Raised when `unreadable` finds something else in the same file."""

LARGER = 8 / 7
"""Shorter side of a photo as a multiple of the side of the square that is cut from it."""


class Photo8:
    """Decodes a picture of any kind into the square (3, S, S) in its middle.

    The picture is resized so that its shorter side has 8/7 S pixels, 256 for 224, and the central
    square is cut out. Palettes and CMYK are converted to red, green and blue, an opacity is left
    out, and of several pages the first one is taken.

    Args:
        side: S in pixels.
    """

    dtype = np.uint8

    def __init__(self, side: int) -> None:
        self.side = side

    def __repr__(self) -> str:
        return f'Photo8({self.side})'

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the square, uint8 (3, S, S).

        Raises:
            OSError: The file is no picture or is truncated.
        """
        with Image.open(path) as image:
            whole = upright(image).convert('RGB')
        # Pictures that are thinner than the square have at least one pixel a side.
        scale = self.side * LARGER / min(whole.size)
        width, height = (max(self.side, round(scale * side)) for side in whole.size)
        left, top = (width - self.side) // 2, (height - self.side) // 2
        square = whole.resize((width, height), Image.Resampling.BILINEAR)
        values = np.asarray(square.crop((left, top, left + self.side, top + self.side)))
        return values.transpose(2, 0, 1)


def unreadable(paths: Sequence[Path], decode: Photo8) -> list[bool]:
    """Returns which files cannot be decoded in full; each is looked at once.

    Raises:
        UserError: A file is missing.
    """

    def look(path: Path) -> str:
        try:
            decoded(path, decode)
        except UserError:
            return 'unreadable'
        return ''

    return [bool(told) for told in remembered(f'readable {VERSION} {decode!r}', paths, look)]
