"""Outcomes in files: arrays in a zip archive, read as what anybody may have made.

Nothing is allocated before the sizes that an archive declares are compared with the size of the
file, and nothing in it is ever executed.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np

from benchmark.files import digest, writing
from benchmark.records.schema import Outcomes, RecordError

MAX_BYTES = 4 * 2**30
"""Most bytes that the arrays of one archive may take."""

INFLATION = 1040
"""Deflate packs at most 1032 bytes into one; an archive that declares more is damaged or a bomb."""

_PACKING = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def write(path: Path, outcomes: Outcomes) -> str:
    """Writes outcomes, whole or not at all; the same arrays give the same bytes.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: The file cannot be written.
    """
    with writing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **dict(sorted(outcomes.items())))
    return digest(path).sha256


def matches(path: Path, sha256: str) -> bool:
    """Returns whether a file is there and has this content."""
    try:
        return path.is_file() and digest(path).sha256 == sha256
    except OSError:
        return False


def read(path: Path) -> Outcomes:
    """Reads what `write` wrote.

    Raises:
        RecordError: The file is missing or damaged, or declares more than it can hold.
    """
    try:
        if not path.is_file():
            raise ValueError('no such file')
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, path.stat().st_size)
            return {m.filename.removesuffix('.npy'): _array(archive, m) for m in members}
    except Exception as error:
        # The file may hold anything, and so zipfile and numpy may raise anything.
        told = ' '.join(f'{error}'.split())[:200] or type(error).__name__
        raise RecordError(f'{path}: cannot be read as outcomes: {told}') from error


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError('expected every array once, found two of one name')
    for member in members:
        if not member.filename.endswith('.npy'):
            raise ValueError(f'expected arrays (.npy) alone, found {member.filename[:80]!r}')
        if member.flag_bits & 1 or member.compress_type not in _PACKING:
            raise ValueError(f'{member.filename[:80]!r}: expected plain or deflated data')
        if member.file_size > INFLATION * member.compress_size:
            raise ValueError(f'{member.filename[:80]!r}: declares more than it can hold')
    if sum(member.compress_size for member in members) > size:
        raise ValueError('declares more data than the file has')
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES:
        raise ValueError(f'expected at most {MAX_BYTES} bytes of arrays, found {total}')


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Reads one array, once the shape in its header fits the size of the member."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f'{member.filename[:80]!r}: unknown version of the npy format')
        header = getattr(np.lib.format, f'read_array_header_{version[0]}_0')
        shape, _, dtype = header(file)
        expected = math.prod(shape) * dtype.itemsize
        if dtype.kind not in 'iufU' or any(n < 0 for n in shape):
            raise ValueError(f'{member.filename[:80]!r}: expected numbers or texts, found {dtype}')
        if file.tell() + expected != member.file_size:
            raise ValueError(f'{member.filename[:80]!r}: its shape {shape} does not fit its size')
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # also makes zipfile compare the checksum
            raise ValueError(f'{member.filename[:80]!r}: holds more than its shape')
    return array
