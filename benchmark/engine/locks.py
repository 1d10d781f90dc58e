"""One process at a time in the folder of a run, so that several can share a results folder.

The lock is that of an open file (`flock`): the operating system releases it whatever becomes of the
process, also on network file systems that support it. Where the file system does not, a folder
with a file in it takes its place, whose holder renews the time of the file; a lock that has not
been renewed for `STALE` seconds is taken from its holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import sweep

FILE, FOLDER = '.lock', '.lock.d'
"""What is locked in a folder, and what stands for it where the file system locks no files."""

BEAT, STALE = 10.0, 120.0
"""Seconds between renewals, and after which a lock that was not renewed counts as abandoned."""

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

_seen: dict[Path, tuple[object, float]] = {}
"""Folder lock -> its holder's last renewal, and when this process first saw it.

Time is measured here alone, since the clocks of two machines differ.
"""

_own: set[Path] = set()
"""Files of the folder locks that this process holds."""


class Busy(Exception):
    """Another process works in this folder."""


def check_held() -> None:
    """Checks that this process still has all the folders that it holds.

    One that was stopped, or could not reach the file system, for `STALE` seconds has lost those
    where the file system locks no files, and must not write there any more.

    Raises:
        Busy: Another process has taken one.
    """
    for file in tuple(_own):
        try:
            file.stat()
        except OSError as error:
            if error.errno in _GONE:
                raise Busy from None


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Makes a folder this process's own until the block ends; never waits.

    What a killed process left there half written is removed.

    Raises:
        Busy: Another process has the folder.
        UserError: The folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = _lock_file(folder / FILE)
            if handle is not None:
                stack.callback(_unlock_file, folder / FILE, handle)
            else:
                stack.enter_context(_beating(folder / FOLDER))
            sweep(folder)
        except OSError as error:
            raise UserError(f'{folder}: cannot be written: {error.strerror or error}') from error
        yield


def is_held(folder: Path) -> bool:
    """Returns whether a process works in a folder; changes nothing there.

    A lock that is no file of the operating system is judged by the clocks of both machines.
    """
    with contextlib.suppress(OSError, StopIteration):
        renewed = next((folder / FOLDER).iterdir()).stat().st_mtime
        return time.time() - renewed <= STALE
    try:
        handle = os.open(folder / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        # Another process that asks at this very moment takes it for busy, and asks again.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _lock_file(path: Path) -> int | None:
    """Returns the handle of the locked file, None where the file system locks no files."""
    while True:
        # A folder or a link in this place is no lock of anybody; the link could lead anywhere.
        if path.is_symlink():
            path.unlink(missing_ok=True)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before removes the file, and a lock on a removed file locks nobody out.
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except BlockingIOError:
            os.close(handle)
            raise Busy from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if error.errno in _UNSUPPORTED:
                path.unlink(missing_ok=True)
                return None
            raise
        os.close(handle)


def _unlock_file(path: Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    # Loader processes have inherited the handle; closing it here would not release the lock.
    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


@contextlib.contextmanager
def _beating(path: Path) -> Iterator[None]:
    """Holds a folder that stands for a lock and renews it.

    The folder holds one file, named as its holder is. A folder can be renamed to one that is empty
    but not to one that is not, so that of several processes one alone gets the lock.
    """
    mine, made = uuid.uuid4().hex, path.with_name(f'.part-lock-{uuid.uuid4().hex}')
    try:
        made.mkdir()
        (made / mine).touch()
        made.rename(path)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        _free_if_abandoned(path)
        raise Busy from None
    ended = threading.Event()
    threading.Thread(target=_renew, args=(path / mine, ended), daemon=True).start()
    _own.add(path / mine)
    try:
        yield
    finally:
        _own.discard(path / mine)
        ended.set()
        with contextlib.suppress(OSError):
            (path / mine).unlink()
            path.rmdir()


def _renew(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(file)


def _free_if_abandoned(path: Path) -> None:
    """Removes the holder of a lock whose renewal this process has not seen for `STALE` seconds."""
    with contextlib.suppress(OSError, StopIteration):
        holder = next(path.iterdir())
        renewed = holder.name, holder.stat().st_mtime_ns
        last, since = _seen.get(path, (None, 0.0))
        if last != renewed:
            _seen[path] = renewed, time.monotonic()
        elif time.monotonic() - since > STALE:
            holder.unlink()
