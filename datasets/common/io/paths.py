"""What a path leads to: a file, a folder or nothing; anything else is told in one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import user_path


def check_access(path: Path) -> None:
    """Checks that a file or folder may be read, if it is there.

    Raises:
        UserError: It, or a folder that holds it, may not be read, or no file can have its name.
    """
    here = user_path(str(path))
    rights = os.R_OK | os.X_OK if here.is_dir() else os.R_OK
    if here.exists() and not os.access(path, rights):
        raise UserError(f'{path}: cannot be read: permission denied')


def check_regular(path: Path) -> None:
    """Checks that a path is that of a file: reading from a pipe would wait for ever.

    Raises:
        UserError: Something else is there.
        FileNotFoundError: Nothing is there.
    """
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        found = 'a folder' if stat.S_ISDIR(kind) else 'a pipe, socket or device'
        raise UserError(f'{path}: expected a file, found {found}')


def has_file(path: Path) -> bool:
    """Returns whether a file is there.

    Raises:
        UserError: Something else is there, which must not count as nothing, or no file can have
            this name.
    """
    try:
        check_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        return _nothing(path, 'a file')
    except (OSError, ValueError):
        user_path(str(path))
        raise
    return True


def has_folder(path: Path) -> bool:
    """Returns whether a folder is there.

    Raises:
        UserError: Something else is there, which must not count as nothing, or no folder can have
            this name.
    """
    if user_path(str(path)).is_dir():
        return True
    if path.exists():
        raise UserError(f'{path}: expected a folder, found something else')
    return _nothing(path, 'a folder')


def check_folder(path: Path) -> None:
    """Checks that a folder is there.

    Raises:
        UserError: Nothing or something else is there.
    """
    if not user_path(str(path)).is_dir():
        found = 'a file' if path.is_file() else 'nothing there'
        raise UserError(f'{path}: expected a folder, found {found}')


def _nothing(path: Path, expected: str) -> bool:
    if path.is_symlink():
        raise UserError(f'{path}: expected {expected}, found a link to nothing')
    return False
