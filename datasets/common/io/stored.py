"""Named arrays from one .npz file, or from a folder of .npy files that are read on demand."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from benchmark.errors import UserError
from datasets.common.io.folders import walk
from datasets.common.io.remembered import hashes


def load(root: Path, aside: list[str] | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file or of a folder of .npy files by their keys.

    In a folder, the key of an array is its path below the folder without '.npy'. Its arrays are
    memory maps, of which nothing is read yet.

    Args:
        root: The file or folder.
        aside: Takes the paths, below a folder, of files that are not read.

    Raises:
        UserError: There is no such file or folder, it has another format, two arrays have one key,
            or the content of an .npz file would take more than half of the memory.
    """
    if root.is_dir():
        return _load_folder(root, [] if aside is None else aside)
    if not root.is_file():
        raise UserError(f'{root}: expected an .npz file or a folder, found nothing there')
    if not zipfile.is_zipfile(root):
        raise UserError(f'{root}: expected an .npz file, found another format')
    try:
        with zipfile.ZipFile(root) as archive:
            _check_memory(root, archive)
            members = _members(root, archive)
            return {key: _array(root, archive, key, member) for key, member in members.items()}
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f'{root}: cannot be read, broken or no .npz file: {error}') from None


def content_hash(root: Path, arrays: dict[str, np.ndarray], *options: object) -> str:
    """Returns 12 hexadecimal digits that hash the data and options; the path does not matter.

    Files that have not changed since they were hashed are not read again
    (`datasets.common.io.remembered`).

    Args:
        root: The file or folder.
        arrays: What `load(root)` has returned.
        options: Options that change the data.
    """
    digest = hashlib.sha256(''.join(f'{option}/' for option in options).encode())
    keys = [''] if root.is_file() else sorted(arrays)
    files = [root if root.is_file() else array_file(root, key) for key in keys]
    for key, content in zip(keys, hashes(files), strict=True):
        digest.update(f'{key} {content}/'.encode())
    return digest.hexdigest()[:12]


def array_file(root: Path, key: str) -> Path:
    """Returns the file of a key in a folder."""
    return root / f'{key}.npy'


def _load_folder(root: Path, aside: list[str]) -> dict[str, np.ndarray]:
    left: list[Path] = []
    every = list(walk(root, left))
    files = [file for file in every if file.suffix == '.npy']
    left += [file for file in every if file.suffix != '.npy']
    aside += [file.relative_to(root).as_posix() for file in left]
    if not files:
        raise UserError(f'{root}: expected inputs/<modality>.npy, target.npy, found no .npy file')
    return {file.relative_to(root).with_suffix('').as_posix(): _mapped(file) for file in files}


def _mapped(file: Path) -> np.ndarray:
    try:
        with file.open('rb') as handle:
            if _is_array(handle):
                handle.seek(0)
                _check_type(f'{file}', _declared(handle)[1])
        found = np.load(file, mmap_mode='r', allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # a damaged header makes NumPy raise what it likes
        raise UserError(f'{file}: cannot be read as an array: {_told(error)}') from None
    if not isinstance(found, np.memmap):
        found.close()
        raise UserError(f'{file}: expected an array, found an .npz file of another name')
    # More may have been saved to the same file, which would be lost.
    if (more := file.stat().st_size - found.offset - found.nbytes) > 0:
        raise UserError(f'{file}: expected one array, found {more} more bytes behind it')
    return found


def _told(error: Exception) -> str:
    """Returns the first line of what an error says."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _members(file: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns key -> member of an .npz file."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix('.npy')
        if key in found:
            raise UserError(f'{file}: {key}: expected one array of this key, found two')
        found[key] = member
    return found


def _array(file: Path, archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo) -> np.ndarray:
    try:
        with archive.open(member) as handle:
            array = _is_array(handle)
        if not array:
            raise UserError(f'{file}: {key}: expected an array, found a file of another kind')
        with archive.open(member) as handle:
            _check_declared(file, key, handle, member.file_size)
        with archive.open(member) as handle:
            return np.lib.format.read_array(handle, allow_pickle=False)
    except UserError:
        raise
    # Members may be encrypted or packed in a way that Python lacks, headers damaged in any way.
    except Exception as error:
        told = f'{file}: {key}: cannot be read as an array: {_told(error)}'
        raise UserError(told) from None


def _is_array(handle: IO[bytes]) -> bool:
    prefix = np.lib.format.MAGIC_PREFIX
    return handle.read(len(prefix)) == prefix


def _declared(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Returns shape and type that the header of an array declares."""
    version = np.lib.format.read_magic(handle)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(handle)
    return shape, dtype


def _check_type(where: str, dtype: np.dtype) -> None:
    """Checks that an array needs no pickle, which could run code."""
    if dtype.hasobject:
        raise UserError(
            f'{where}: expected numbers or text in an array of one shape, found an array of '
            'objects, as NumPy makes of None and of lists of unequal lengths'
        )


def _check_declared(file: Path, key: str, handle: IO[bytes], size: int) -> None:
    """Checks the size that an array declares before memory is taken for it."""
    shape, dtype = _declared(handle)
    _check_type(f'{file}: {key}', dtype)
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - handle.tell():
        raise UserError(
            f'{file}: {key}: expected {dtype} {shape}, {needed} bytes, found {size} in the file'
        )


def _check_memory(file: Path, archive: zipfile.ZipFile) -> None:
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
