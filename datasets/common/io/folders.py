"""Files below a folder, without what programs leave behind beside the data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from benchmark.errors import UserError
from datasets.common.io.paths import check_access, has_folder

SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.npy')
"""Formats of images; in tables and lists, the name of a sample may end in one of them."""

FRAMES = ('.jpg', '.jpeg', '.png')
"""Formats of the frames of a video."""

VOLUMES = ('.nii.gz', '.nii', '.npy')
"""Formats of volumes; upper and lower case are the same."""

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
            something in it has a name that cannot be printed or is neither file nor folder, or a
            folder has the name of an image or array.
    """
    place = os.path.realpath(folder)
    if place in above:
        raise UserError(f'{folder}: expected a folder, found a link to a folder that holds it')
    for path in entries(folder):
        if is_litter(path.name):
            if left is not None:
                left.append(path)
        elif path.is_dir():
            if path.suffix.lower() in SUFFIXES:
                raise UserError(f'{path}: expected a file, found a folder')
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
    check_access(folder)
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f'{folder}: cannot be read: {error.strerror}') from None
    for path in found:
        _check_printable(folder, path.name)
    return found


def _check_printable(folder: Path | str, name: str) -> None:
    # Names go into messages, records and tables, of which a terminal must obey none.
    if not name.isprintable():
        raise UserError(f'{folder}: expected names of printable characters, found {ascii(name)}')


def walk_all(folder: Path) -> Iterator[Path]:
    """Yields all files below a folder in the order of their paths; follows symbolic links.

    Raises:
        UserError: A name cannot be printed, or a folder has the name of a volume.
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
        for name in (*folders, *files):
            _check_printable(base, name)
        for name in folders:
            if name.lower().endswith(VOLUMES):
                raise UserError(f'{base}/{name}: expected a file, found a folder')
        yield from (Path(base, file) for file in sorted(files))


def frames_in(folder: Path, aside: list[Path]) -> list[Path]:
    """Returns the images of a folder in the order of their names; none if there is no folder.

    Args:
        folder: The folder.
        aside: Takes what else is in it.

    Raises:
        UserError: See `entries`.
    """
    files = entries(folder) if has_folder(folder) else []
    aside += [file for file in files if file.suffix.lower() not in FRAMES]
    return [file for file in files if file.suffix.lower() in FRAMES]


def middle_frame(folder: Path, aside: list[Path]) -> Path | None:
    """Returns the middle one of `frames_in`, or None if there is none."""
    frames = frames_in(folder, aside)
    return frames[len(frames) // 2] if frames else None
