"""Named arrays from one .npz file, or from a folder of .npy files that are read on demand."""

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
"""How many bytes of a large array are hashed, in rows spread evenly over it."""


def load(root: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file or of a folder of .npy files by their keys.

    In a folder, the key of an array is its path below the folder without '.npy'. Its arrays are
    memory maps, of which nothing is read yet.

    Raises:
        UserError: There is no such file or folder, it has another format, or the content of an .npz
            file would take more than half of the memory.
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
    """Returns 12 hexadecimal digits that hash the data and options; the path does not matter.

    All bytes of an .npz file are hashed. Of an array in a folder that is larger than 16 MB, the
    shape, the type and 16 MB of evenly spread rows are hashed, so that opening a large folder does
    not read all of it.

    Args:
        root: The file or folder.
        arrays: What `load(root)` has returned.
        options: Options that change the data.
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
    """Returns the size of the machine's memory in bytes."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
