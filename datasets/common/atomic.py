"""Files that appear under their names whole and synced, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

PART = '.part-'
"""Starts the names of files that are being written; what they end in decides their format."""


class Entry(NamedTuple):
    """One prepared file: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str

    def fits(self, path: Path) -> bool:
        """Returns whether a file of this size is there."""
        return path.is_file() and path.stat().st_size == self.size


def write_whole(path: Path, data: bytes | Callable[[Path], None]) -> Entry:
    """Writes a file under another name, syncs it, and renames it.

    Args:
        path: Where it will be.
        data: Its content, or what writes that to the path it is given.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{PART}{path.name}')
    try:
        if callable(data):
            data(part)
        else:
            part.write_bytes(data)
        with part.open('rb+') as file:
            os.fsync(file.fileno())
        entry = digest(part)
        os.replace(part, path)
        return entry
    finally:
        part.unlink(missing_ok=True)


def digest(path: Path) -> Entry:
    """Returns size and SHA-256 of a file, reading it once."""
    found, size = hashlib.sha256(), 0
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
            size += len(chunk)
    return Entry(size, found.hexdigest())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
