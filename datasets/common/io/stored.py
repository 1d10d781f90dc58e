"""Arrays by key, from one .npz file or from a folder of .npy files that stays on disk."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import EllipsisType

import numpy as np

from benchmark.errors import UserError

SAMPLE = 1 << 24
"""Bytes of a large array that its hash reads, in rows spread over all of it."""


def load(root: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by key, or those of a folder by path without '.npy'.

    Those of a folder are memory maps: nothing is read yet.

    Raises:
        UserError: Nothing is there, it is of another format, or it does not fit into memory.
    """
    if root.is_dir():
        return _load_folder(root)
    if not root.is_file():
        raise UserError(f'{root}: expected an .npz file or a folder, found nothing there')
    if not zipfile.is_zipfile(root):
        raise UserError(f'{root}: expected an .npz file, found another format')
    _check_memory(root)
    with np.load(root, allow_pickle=False) as raw:
        return {key: _array(root, raw, key) for key in raw.files}


def content_hash(root: Path, arrays: dict[str, np.ndarray], *options: object) -> str:
    """Returns a short hash of what `load` found, wherever it lies, and of options.

    A file's is that of all its bytes. In a folder, of arrays beyond 16 MB it takes shape, type and
    16 MB of evenly spread rows, so that opening does not read what lies on disk.
    """
    digest = hashlib.sha256(''.join(f'{option}/' for option in options).encode())
    if root.is_file():
        with root.open('rb') as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()[:12]
    for key, x in sorted(arrays.items()):
        digest.update(f'{key} {x.dtype.str} {x.shape}/'.encode())
        for row in _spread(x):
            digest.update(np.ascontiguousarray(x[row]).tobytes())
    return digest.hexdigest()[:12]


def _spread(x: np.ndarray) -> Sequence[int | EllipsisType]:
    if x.nbytes <= SAMPLE or x.ndim == 0:
        return [...]
    count = int(np.clip(SAMPLE * len(x) // x.nbytes, 2, len(x)))
    return np.linspace(0, len(x) - 1, count).astype(int).tolist()


def _load_folder(root: Path) -> dict[str, np.ndarray]:
    files = sorted(root.rglob('*.npy'))
    if not files:
        raise UserError(f'{root}: expected inputs/<modality>.npy, target.npy, found no .npy file')
    return {file.relative_to(root).with_suffix('').as_posix(): _mapped(file) for file in files}


def _mapped(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode='r', allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f'{file}: cannot be read without pickles: {error}') from None


def _array(file: Path, raw: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        found = raw[key]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f'{file}: {key}: cannot be read without pickles: {error}') from None
    if not isinstance(found, np.ndarray):
        raise UserError(f'{file}: {key}: expected an array, found a file of another kind')
    return found


def _check_memory(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        needed = sum(member.file_size for member in archive.infolist())
    found = memory()
    if needed > found / 2:
        raise UserError(
            f'{file}: expected less than half of the memory ({found / 2e9:.1f} GB), found '
            f'{needed / 1e9:.1f} GB unpacked; write a folder with one .npy file per key, e.g. '
            f'{file.stem}/inputs/<modality>.npy and {file.stem}/target.npy: it is read from disk'
        )


def memory() -> int:
    """Returns the bytes of the machine's memory."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
