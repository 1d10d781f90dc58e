"""Every file of a data set, looked at once before anything is trained.

A broken file, a NaN or a label that no class has is found when the data are opened rather than by
the test after a long training. What was found is remembered (`datasets.common.io.remembered`), so
that only files that changed are decoded when the data are opened again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.errors import UserError
from datasets.common.io import pictures
from datasets.common.io.any_image import AnyImage
from datasets.common.io.files import Decoder, decoded
from datasets.common.io.layouts import Layout
from datasets.common.io.remembered import remembered

VERSION = 6
"""Raised when the functions below find something else in the same file."""


def check_decoded(paths: Sequence[Path], decode: Decoder) -> None:
    """Decodes files once, as the training and the test will; unchanged files are not read again.

    Args:
        paths: The files.
        decode: Their decoder; its `repr` tells everything on which its errors depend.

    Raises:
        UserError: A file is missing, is truncated, or is refused by the decoder.
    """

    def look(path: Path) -> str:
        # Only success is remembered: an error is raised again each time.
        decoded(path, decode)
        return ''

    remembered(f'decoded {VERSION} {decode!r}', paths, look)


def classes_in(paths: Sequence[Path], decode: Decoder) -> list[frozenset[int]]:
    """Returns the classes in each label map, 255 for what is ignored; each is decoded once.

    Args:
        paths: The label maps.
        decode: Their decoder; its `repr` tells everything on which its result depends.

    Raises:
        UserError: A file is missing, is truncated, or is refused by the decoder.
    """

    def look(path: Path) -> str:
        return json.dumps(np.unique(decoded(path, decode)).tolist())

    return [
        frozenset(json.loads(text))
        for text in remembered(f'classes {VERSION} {decode!r}', paths, look)
    ]


def not_finite(paths: Sequence[Path]) -> list[int]:
    """Returns how many numbers of each .npy file are NaN or infinite; each is read once.

    Raises:
        UserError: A file is missing or no array.
    """

    def look(path: Path) -> str:
        values = decoded(path, lambda file: np.load(file, allow_pickle=False))
        return str(int((~np.isfinite(values)).sum()))

    return list(map(int, remembered(f'not finite {VERSION}', paths, look)))


class Map(NamedTuple):
    """What a label map holds: its (H, W) and the values in it, 255 among them."""

    size: tuple[int, int]
    values: frozenset[int]


class Picture(NamedTuple):
    """What an image holds.

    Attributes:
        shape: Its (C, H, W).
        numbers: The type of its numbers, in words.
        dtype: The type in which they are standardised, 'float32' or 'float64'.
        low: The least number of each channel.
        high: The greatest number of each channel.
    """

    shape: tuple[int, int, int]
    numbers: str
    dtype: str
    low: list[float]
    high: list[float]


def pictures_of(paths: Sequence[Path], layout: Layout = '') -> list[Picture]:
    """Returns shapes, types and ranges of images, each of which is decoded once.

    Raises:
        UserError: An image is missing, is broken, or is not as `AnyImage` expects it.
    """
    decode = AnyImage(None, layout=layout)

    def look(path: Path) -> str:
        stored = decoded(path, decode.stored)
        values = decode.checked(path, stored)
        ends = values.min((1, 2)).tolist(), values.max((1, 2)).tolist()
        return json.dumps([stored.shape, numbers_of(stored.dtype), values.dtype.name, *ends])

    found = remembered(f'image {VERSION} {layout}', paths, look)
    return [Picture(tuple(shape), *more) for shape, *more in map(json.loads, found)]


def check_numbers(
    paths: Sequence[Path], pictures: Sequence[Picture], expected: str, like: str
) -> None:
    """Checks that images have numbers of one type.

    The same scene in 8 and in 16 bits would be two hundred times as bright.

    Args:
        paths: Their files.
        pictures: What the files hold.
        expected: The type in words (`numbers_of`).
        like: What has this type, for the message, e.g. 'like a.png'.

    Raises:
        UserError: One has numbers of another type.
    """
    for path, picture in zip(paths, pictures, strict=True):
        if picture.numbers != expected:
            raise UserError(f'{path}: expected {expected} {like}, found {picture.numbers}')


def numbers_of(dtype: np.dtype) -> str:
    """Returns in words what range the numbers of a type have."""
    if dtype.kind == 'f':
        return 'floating-point numbers'
    bits = 1 if dtype.kind == 'b' else 8 * dtype.itemsize
    return f'whole numbers of {bits} bit{"s" if bits > 1 else ""}'


def maps(paths: Sequence[Path]) -> list[Map]:
    """Returns the sizes and values of label maps, each of which is decoded once.

    Raises:
        UserError: A label map is missing, is broken, or does not hold labels in one channel.
    """
    found = [json.loads(text) for text in remembered(f'labels {VERSION}', paths, _look)]
    return [Map(tuple(size), frozenset(values)) for size, values in found]


def _look(path: Path) -> str:
    values = decoded(path, lambda file: np.asarray(pictures.labels(file)))
    return json.dumps([values.shape, np.unique(values).tolist()])
