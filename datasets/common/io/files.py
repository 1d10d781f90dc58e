"""Samples decoded from files as they are read, and kept when the user asks for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import DTypeLike

from benchmark.errors import UserError, unknown
from benchmark.files import digest

CACHES = ('none', 'ram', 'disk')


class Decoder(Protocol):
    """Turns a file into an array of type `dtype`; its `repr` says how, for caches."""

    @property
    def dtype(self) -> DTypeLike:
        """Type of the values."""

    def __call__(self, path: Path) -> np.ndarray:
        """Returns what the file holds."""


class Files:
    """Rows that are decoded from one file each; a `benchmark.dataset.Rows`.

    Decoded values are kept, if at all, in the files' own type (bytes rather than floats) and
    normalised when they are read.

    Args:
        paths: One file per sample.
        decode: Turns a file into an array of `shape`.
        shape: Shape of one sample.
        normalise: Turns decoded rows (n, *shape) into what the network sees; nothing by default.
        cache: 'none' decodes on every reading, 'ram' keeps what was decoded, for all loader
            processes together, 'disk' keeps it in a file of `cache_folder` for later runs too.
        cache_folder: Where 'disk' writes.

    Raises:
        UserError: On reading, a file that is missing, broken or of another shape; on opening, a
            cache that cannot be written.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        decode: Decoder,
        shape: tuple[int, ...],
        normalise: Callable[[np.ndarray], np.ndarray] | None = None,
        cache: str = 'none',
        cache_folder: Path | None = None,
    ) -> None:
        if cache not in CACHES:
            raise unknown('cache', cache, CACHES)
        self.paths = list(paths)
        self.decode, self.normalise = decode, normalise
        self.shape, self.dtype = (len(self.paths), *shape), np.dtype(decode.dtype)
        self._kept: np.ndarray | None = None
        self._known: np.ndarray | None = None
        if cache == 'ram' and self.paths:
            self._keep_in_memory()
        elif cache == 'disk' and self.paths:
            self._keep_on_disk(cache_folder or self.paths[0].parent)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows (n, *shape) at an array of positions."""
        rows = np.atleast_1d(np.asarray(index))
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for k, row in enumerate(rows):
            out[k] = self._row(int(row))
        return out if self.normalise is None else self.normalise(out)

    def _row(self, row: int) -> np.ndarray:
        if self._kept is None or self._known is None:
            return self._decoded(row)
        if not self._known[row]:
            self._kept[row] = self._decoded(row)
            # Only now: another process must not read a row that is half written.
            self._known[row] = 1
        return self._kept[row]

    def _decoded(self, row: int) -> np.ndarray:
        path = self.paths[row]
        found = decoded(path, self.decode)
        if found.shape != self.shape[1:] or found.dtype != self.dtype:
            expected = f'{self.dtype} {self.shape[1:]}'
            raise UserError(f'{path}: expected {expected}, found {found.dtype} {found.shape}')
        return found

    def _keep_in_memory(self) -> None:
        # Shared memory: what one loader process decodes, all have.
        numbers = int(np.prod(self.shape)) * self.dtype.itemsize
        kept = torch.zeros(numbers, dtype=torch.uint8).share_memory_().numpy()
        self._kept = kept.view(self.dtype).reshape(self.shape)
        self._known = torch.zeros(len(self), dtype=torch.uint8).share_memory_().numpy()

    def _keep_on_disk(self, folder: Path) -> None:
        name = f'{self._key()}.cache'
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._kept = _mapped(folder / f'{name}.rows', self.dtype, self.shape)
            self._known = _mapped(folder / f'{name}.known', np.dtype(np.uint8), (len(self),))
        except OSError as error:
            raise UserError(
                f'{folder}: the cache cannot be written: {error.strerror}; '
                'use cache=ram or cache=none'
            ) from None

    def _key(self) -> str:
        """Names what is cached: files, their sizes and times, and how they are decoded."""
        listed = []
        for path in self.paths:
            found = path.stat() if path.is_file() else None
            listed.append([str(path), found.st_size, found.st_mtime_ns] if found else str(path))
        how = [repr(self.decode), self.shape, self.dtype.str]
        return hashlib.sha256(json.dumps([listed, how]).encode()).hexdigest()[:16]


def decoded(path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Returns what a file holds.

    Raises:
        UserError: It is missing or broken.
    """
    try:
        return decode(path)
    except FileNotFoundError:
        raise UserError(f'{path}: expected a file, found nothing there') from None
    except UserError:
        raise
    # Decoders raise whatever they like on broken files.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        text = f'{path}: cannot be read, broken or of another format: {reason}'
        raise UserError(text) from None


def _mapped(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Opens a file of zeros or of what an earlier run wrote; takes disk space as it is filled."""
    size = int(np.prod(shape)) * dtype.itemsize
    with file.open('ab') as handle:
        os.truncate(handle.fileno(), size)
    return np.memmap(file, dtype, 'r+', shape=shape)


def fingerprint(paths: Sequence[Path], *more: object) -> str:
    """Returns a short hash of the files' names and sizes, and of whatever else decides a score.

    Names and sizes rather than contents: a data set of millions of files opens in seconds.

    Args:
        paths: The files that the data set reads.
        more: Lists, labels and options that shape the data; what `repr` tells apart.

    Raises:
        UserError: A file is missing.
    """
    found = hashlib.sha256(repr(more).encode())
    missing = []
    for path in paths:
        try:
            found.update(f'{path.name}/{path.stat().st_size}/'.encode())
        except OSError:
            missing.append(path)
    if missing:
        more_text = f' (nor for {len(missing) - 1} more of {len(paths)})' if missing[1:] else ''
        raise UserError(f'{missing[0]}: expected a file, found nothing there{more_text}')
    return found.hexdigest()[:12]


def content(path: Path) -> str:
    """Returns a short hash of a file's content; its name if there is no such file."""
    return digest(path).sha256[:12] if path.is_file() else path.name


def data_root(dataset: str, root: str, how_to_get: str) -> Path:
    """Returns the folder that the user named.

    Raises:
        UserError: None was named; says where the data come from.
    """
    if not root:
        raise UserError(f'{dataset}: expected --data-root FOLDER: {how_to_get}')
    return Path(root)


def lines(path: Path) -> list[str]:
    """Returns the lines of a list file, without empty ones; the last needs no newline.

    Raises:
        UserError: The file is missing, empty, or no text.
    """
    try:
        found = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    except FileNotFoundError:
        raise UserError(f'{path}: expected a list file, found nothing there') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: expected a text file: {error}') from None
    found = [line for line in found if line]
    if not found:
        raise UserError(f'{path}: expected some lines, found none')
    return found
