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


def walk(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yields the files below a folder in the order of their names; symbolic links are followed.

    Args:
        folder: The folder; hidden files and folders in it are left out.
        above: The folders that hold it.

    Raises:
        UserError: A link leads to a folder that holds it.
    """
    place = os.path.realpath(folder)
    if place in above:
        raise UserError(f'{folder}: expected a folder, found a link to a folder that holds it')
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            continue
        if path.is_dir():
            yield from walk(path, above | {place})
        else:
            yield path
