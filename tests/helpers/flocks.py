"""A file system that locks no files."""

import errno
import os

from benchmark.engine import locks


def refuse_flock(monkeypatch, number=errno.ENOSYS):
    """Lets every lock of a file fail, so that folders take their place.

    Args:
        monkeypatch: Sets the function back.
        number: The error of the file system.
    """

    def unsupported(handle, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, 'flock', unsupported)
