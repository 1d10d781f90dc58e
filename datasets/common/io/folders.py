"""Files below a folder, without what programs leave behind beside the data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import UserError

LITTER = ('thumbs.db', 'desktop.ini', '__macosx')
"""What file managers and archives leave behind, beside names with a dot in front; lower case."""


def is_litter(name: str) -> bool:
    """Returns whether a file or folder of this name is hidden or left behind by a program."""
    return name.startswith('.') or name.lower() in LITTER


def walk(
    folder: Path, left: list[Path] | None = None, above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yields the files below a folder in the order of their names; symbolic links are followed.

    Args:
        folder: The folder; hidden files and folders in it are left out.
        left: Takes what was left out.
        above: The folders that hold it.

    Raises:
        UserError: The folder cannot be read, a link leads to a folder that holds it or to nothing,
            or something in it has a name that cannot be printed or is neither file nor folder.
    """
    place = os.path.realpath(folder)
    if place in above:
        raise UserError(f'{folder}: expected a folder, found a link to a folder that holds it')
    for path in entries(folder):
        if is_litter(path.name):
            if left is not None:
                left.append(path)
        elif path.is_dir():
            yield from walk(path, left, above | {place})
        elif path.is_file():
            yield path
        else:
            found = 'a pipe, socket or device' if path.exists() else 'a link to nothing'
            raise UserError(f'{path}: expected a file or a folder, found {found}')


def entries(folder: Path) -> list[Path]:
    """Returns what is in a folder, in the order of the names.

    Raises:
        UserError: The folder cannot be read, or a name in it cannot be printed.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from None
    for path in found:
        # Names go into messages, records and tables, in which a terminal must obey none of them.
        if not path.name.isprintable():
            raise UserError(
                f'{folder}: expected names of printable characters, found {ascii(path.name)}'
            )
    return found


def walk_all(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder in the order of their paths; follows symbolic links.

    Raises:
        OSError: A folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for base, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        here = os.path.realpath(base)
        # A link to a folder that holds it would lead around for ever.
        folders[:] = sorted(
            name
            for name in folders
            if not Path(here).is_relative_to(os.path.realpath(os.path.join(base, name)))
        )
        yield from (Path(base, file) for file in sorted(files))
