"""Samples that are decoded from files when they are read, with an optional cache.

The module also holds what data sets made of files share: fingerprints, list files and messages.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import DTypeLike

from benchmark.errors import UserError, unknown
from datasets.common.io.paths import check_access, check_folder, check_regular, has_file
from datasets.common.io.remembered import hashes

Cache = Literal['none', 'ram', 'disk']
"""The option `cache` of data sets: where decoded files are kept; see `Files`."""

CACHES: tuple[Cache, ...] = get_args(Cache)
RETRIES = 3
"""How often a file is decoded again where Python has mistaken itself (`_retried`)."""


class Decoder(Protocol):
    """A callable that decodes one file into one array.

    The name of a cache on disk contains the `repr` of its decoder, so two decoders that give
    different arrays must have different ones.
    """

    @property
    def dtype(self) -> DTypeLike:
        """Type of the decoded values."""

    def __call__(self, path: Path) -> np.ndarray:
        """Returns the decoded array."""


class Files:
    """Samples of one modality, each decoded from a file; implements `benchmark.dataset.Rows`.

    A cache holds decoded values before normalisation, because the files' own type (usually one byte
    per value) takes less space than the float32 that the network gets.

    Args:
        paths: One file per sample.
        decode: Decodes a file into an array of shape `shape`.
        shape: Shape of one sample.
        normalise: Maps decoded samples (n, *shape) to the network's inputs. By default, decoded
            values are returned unchanged.
        cache: 'none' decodes a file whenever it is read. 'ram' keeps decoded samples in memory that
            all loader processes share. 'disk' keeps them in files, also for later runs.
        cache_folder: Folder of the files of cache 'disk'; by default that of the first sample.

    Raises:
        UserError: `cache` is unknown, or the cache cannot be written. Reading samples raises it if
            a file is missing or broken, or its array has another shape or type.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        decode: Decoder,
        shape: tuple[int, ...],
        normalise: Callable[[np.ndarray], np.ndarray] | None = None,
        cache: Cache = 'none',
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

    @property
    def preparation(self) -> dict[str, Any] | None:
        """What samples undergo (`benchmark.dataset.Preparation`); None where nothing is known."""
        facts = getattr(self.normalise, 'facts', None)
        return facts and {**facts, 'dtype': self.dtype.name}

    def prepared_by(self, facts: Mapping[str, Any]) -> Files:
        """Returns the samples, without a cache, as another data set prepares them.

        Args:
            facts: The `preparation` of the other data set.
        """
        normalise: Any = type(self.normalise)
        return Files(self.paths, self.decode, self.shape[1:], normalise.of(facts))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the samples (n, *shape) at the positions `index`, an integer array (n,)."""
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
            # The mark comes last: another process must not read a sample that is half written.
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
        # In shared memory, a sample that one loader process has decoded serves all of them.
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
        """Returns a hash of the files' paths, sizes and times, and of how they are decoded."""
        listed = []
        for path in self.paths:
            found = path.stat() if path.is_file() else None
            # A program can set the time of the content back, but not that of the inode.
            latest = max(found.st_mtime_ns, found.st_ctime_ns) if found else 0
            listed.append([str(path), found.st_size, found.st_ino, latest] if found else str(path))
        how = [repr(self.decode), self.shape, self.dtype.str]
        return hashlib.sha256(json.dumps([listed, how]).encode()).hexdigest()[:16]


def decoded(path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Returns the array that a file holds.

    Args:
        path: The file.
        decode: Decodes it; it may raise any exception on a broken file.

    Raises:
        UserError: The file is missing or cannot be decoded. The message is one line.
    """
    try:
        check_regular(path)
        return _retried(path, decode)
    except FileNotFoundError:
        raise UserError(f'{path}: expected a file, found nothing there') from None
    except UserError:
        raise
    # The libraries behind the decoders raise exceptions of many types on broken files.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].replace(f" '{path}'", '')
        text = f'{path}: cannot be read, broken or of another format: {reason}'
        raise UserError(text) from None


def _retried(path: Path, decode: Callable[[Path], np.ndarray]) -> np.ndarray:
    """Returns what `decode` does, once more where Python has mistaken itself.

    NumPy parses the header of a file as an expression of Python. Some versions of Python, such as
    3.11.7, count the depth of expressions that several threads parse at the same time together, and
    raise SystemError where that fails (issue 106905 of CPython). Nothing is wrong with the file.
    """
    for _ in range(RETRIES):
        try:
            return decode(path)
        except SystemError:
            continue
    return decode(path)


def _mapped(file: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """Maps a file into memory; where an earlier run has written nothing, it reads as zeros."""
    # The file is sparse: it takes space on the disk only where something has been written.
    size = int(np.prod(shape)) * dtype.itemsize
    with file.open('ab') as handle:
        os.truncate(handle.fileno(), size)
    return np.memmap(file, dtype, 'r+', shape=shape)


def fingerprint(paths: Sequence[Path], *more: object) -> str:
    """Returns a fingerprint of a data set: 12 hexadecimal digits that change with its content.

    Args:
        paths: The files that the data set reads, in a fixed order. Their names and contents count;
            contents are read once and remembered (`datasets.common.io.remembered`).
        more: Everything else that can change a score, such as lists, labels and options. Their
            `repr` is hashed.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    found = hashlib.sha256(repr(more).encode())
    for path, content_hash in zip(paths, hashes(paths), strict=True):
        found.update(f'{path.name}/{content_hash}/'.encode())
    return found.hexdigest()[:12]


def content(path: Path) -> str:
    """Returns a hash (12 hexadecimal digits) of a file's content; its name if there is no file."""
    return hashes([path])[0][:12] if has_file(path) else path.name


def where_to_look(what: str) -> str:
    """Returns how a user names the root of a data set; `preview.py` has no --data-root.

    Args:
        what: What the root is.
    """
    return f'--data-root {what}, or root={what} after the colon'


def data_root(dataset: str, root: str, how_to_get: str) -> Path:
    """Returns the data root that the user has given.

    Args:
        dataset: Registered name of the data set.
        root: The option `root`; empty if the user gave none.
        how_to_get: Where the data come from, for the message.

    Raises:
        UserError: The user has given no data root, or it may not be read or is a file.
    """
    if not root:
        raise UserError(f'{dataset}: expected {where_to_look("FOLDER")}: {how_to_get}')
    check_access(Path(root))
    if Path(root).is_file():
        check_folder(Path(root))
    return Path(root)


def text(path: Path, what: str) -> str:
    """Returns the content of a text file, without the mark of the byte order in front, if any.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        UserError: The file is missing or is not UTF-8 text.
    """
    if not has_file(path):
        raise UserError(f'{path}: expected {what}, found nothing there')
    try:
        return path.read_text(encoding='utf-8-sig')
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: expected {what} in UTF-8: {error}') from None


def lines(path: Path) -> list[str]:
    """Returns the lines of a list file, stripped of white space and without the empty ones.

    A mark of the byte order, which some editors put in front, is no part of the first line.

    Raises:
        UserError: The file is missing, has no such line, is not UTF-8 text, or holds characters
            that cannot be printed.
    """
    found = list(filter(None, map(str.strip, text(path, 'a list file').split('\n'))))
    if not found:
        raise UserError(f'{path}: expected some lines, found none')
    for line in found:
        if not line.replace('\t', ' ').isprintable():
            raise UserError(f'{path}: expected printable characters, found {ascii(line[:100])}')
    return found
