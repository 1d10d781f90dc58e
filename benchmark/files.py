"""Files that appear under their names whole or not at all, their hashes, and the project's root."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from benchmark.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout that this code belongs to."""

LARGEST = 64 * 2**20
"""Bytes of the largest JSON file that is read; those that are written hold some kilobytes."""

SHOWN = 100
"""Number of characters of a path that messages show where it cannot be used."""


def user_path(given: str, what: str = 'path') -> Path:
    """Returns a path that the user has given, whether something is there or not.

    Args:
        given: The path.
        what: What it was given as, e.g. '--results', for messages.

    Raises:
        UserError: The path is empty, no file can have this name, or a folder above it may not be
            read.
    """
    try:
        if given:
            Path(given).stat()
            return Path(given)
        why = 'it is empty'
    except (FileNotFoundError, NotADirectoryError):
        return Path(given)
    except (OSError, ValueError) as error:
        why = str(getattr(error, 'strerror', None) or error)
    shown = given if given.isprintable() else ascii(given)[1:-1]
    shown = shown if len(shown) <= SHOWN else f'{shown[:SHOWN]}...'
    raise UserError(f"{what}: expected a path, found '{shown}': {why}")


def cache_folder() -> Path:
    """Returns the folder in which this project keeps what it can make again at any time."""
    home = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(home) / 'incomplete-multimodal-benchmark'


def check_file(path: Path) -> None:
    """Checks that no folder, pipe or device is in the place of a file: reading might never end.

    Raises:
        ValueError: One is.
    """
    if path.exists() and not path.is_file():
        raise ValueError('expected a file, found a folder, pipe, socket or device')


def read_json(path: Path, strict: bool = False) -> Any:
    """Returns what a JSON file holds; anybody may have made the file.

    Args:
        path: The file.
        strict: Whether NaN, Infinity and a field that stands twice in an object are refused.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read.
        ValueError: It is no file, is too large, or holds no JSON.
    """
    check_file(path)
    if path.stat().st_size > LARGEST:
        raise ValueError(f'expected at most {LARGEST} bytes, found {path.stat().st_size}')
    try:
        hooks: dict[str, Any] = {'object_pairs_hook': _once, 'parse_constant': _refuse}
        return json.loads(path.read_text(encoding='utf-8'), **(hooks if strict else {}))
    except RecursionError as error:
        raise ValueError('it is nested too deep') from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of its fields; json would keep the last of two fields of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError('a field stands there twice')
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f'{constant} is no number in JSON')


class Entry(NamedTuple):
    """A file as a manifest lists it: its size in bytes and the SHA-256 of its content."""

    size: int
    sha256: str

    def fits(self, path: Path) -> bool:
        """Returns whether a file of this size is there."""
        return path.is_file() and path.stat().st_size == self.size


@contextmanager
def replacing(path: Path, claimed: bool = False) -> Iterator[Path]:
    """Yields the path to write to; what was written there replaces `path` when the block ends.

    The new file is synced before it is renamed, so that `path` is at every moment the old file or
    the whole new one, whatever happens to the process or the machine.

    Args:
        path: The file to replace; its folder is made.
        claimed: This process alone writes in the folder and syncs it at the end. The temporary
            file then has the same name at every attempt, so that an attempt that was killed leaves
            nothing behind once the next one has ended.

    Raises:
        OSError: The file cannot be written.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, 'expected a file, found a pipe, socket or device', str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # What the name ends in may decide the format that a library writes.
    # Processes on two machines may have one number, so that it does not tell them apart.
    own = '' if claimed else f'{uuid.uuid4().hex[:12]}-'
    part = path.with_name(f'.part-{own}{path.name}')
    try:
        yield part
        _commit(part, path)
        if not claimed:
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _commit(part: Path, path: Path) -> None:
    with part.open('rb+') as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut, which syncing the files does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and checks that files can be written there.

    Raises:
        UserError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if folder.is_file():
            raise UserError(f'{folder}: expected a folder, found a file') from None
        raise UserError(f'{folder}: cannot be written: {error.strerror}') from None


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path`, whole and synced, when the block ends.

    Raises:
        UserError: The folder or the file cannot be written.
    """
    try:
        with replacing(path) as part, part.open('wb') as file:
            yield file
            file.flush()
    except OSError as error:
        blocking = next((p for p in path.parents if p.is_file()), None)
        why = f'expected a folder, found the file {blocking}' if blocking else error.strerror
        raise UserError(f'{path}: cannot be written: {why or error}') from error


def sweep(folder: Path, older: float = 0.0, inside: bool = True) -> None:
    """Removes what killed processes left half written in a folder.

    Args:
        folder: The folder; it need not exist.
        older: Seconds that have passed since it was written. Above 0 where others may write there
            at this moment.
        inside: Whether the folders inside it are swept as well.
    """
    # Not Path.rglob, which raises where another process removes a folder meanwhile.
    found = itertools.islice(os.walk(folder), None if inside else 1)
    below = [Path(place, name) for place, *names in found for name in itertools.chain(*names)]
    for left in below:
        if not left.name.startswith('.part-'):
            continue
        try:
            if time.time() - left.lstat().st_mtime < older:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
        except FileNotFoundError:  # another process was faster
            continue


def digest(path: Path) -> Entry:
    """Returns size and SHA-256 of a file, reading it once."""
    found, size = hashlib.sha256(), 0
    with path.open('rb') as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
            size += len(chunk)
    return Entry(size, found.hexdigest())


def stamp(path: Path) -> tuple[int, int] | None:
    """Returns what changes whenever a file is written anew; None if there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def elsewhere(results: Path) -> str:
    """Names the results folders inside a folder that holds no runs; '' if there are none."""
    inside = sorted(folder.parent.name for folder in results.glob('*/runs'))
    return f'; results lie in its folders {", ".join(map(ascii, inside))}' if inside else ''
