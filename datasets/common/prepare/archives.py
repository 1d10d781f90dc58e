"""Reads zip archives from other people safely.

No member can be written outside the target folder, none unpacks to more than the archive declares,
and every kind of broken archive gives an error of one line.
"""

from __future__ import annotations

import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from datasets.common.io.stored import memory

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises on archives that are truncated, encrypted or compressed in unknown ways."""


class Official(NamedTuple):
    """A file of a source, in a folder or in an archive: where it is, and how its bytes are read."""

    name: str
    read: Callable[[], bytes]

    def decoded(self, decode: Callable[[bytes], Any]) -> Any:
        """Returns what is in the file.

        Raises:
            UserError: It cannot be decoded.
        """
        content = self.read()
        try:
            return decode(content)
        # JSON that lacks a key and broken images raise exceptions of many types.
        except Exception as error:
            reason = f'{type(error).__name__}: {error}'.splitlines()[0]
            raise UserError(f'{self.name}: broken or of another format: {reason}') from None


@dataclass(frozen=True)
class Member:
    """One file in an archive.

    Attributes:
        archive: The open archive.
        info: The archive's entry of this file.
    """

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    @property
    def name(self) -> str:
        """Path inside the archive, with '/'. Joined to a folder, it stays below that folder."""
        return self.info.filename

    @property
    def size(self) -> int:
        """Size in bytes when unpacked."""
        return self.info.file_size

    def read(self) -> bytes:
        """Returns the unpacked content.

        Raises:
            UserError: The content is truncated, its checksum is wrong, or it would take more than
                half of the memory.
        """
        found = memory()
        if self.size > found / 2:
            raise UserError(
                f'{self.archive.filename}: {self.name}: expected less than half of the memory '
                f'({found / 2e9:.1f} GB), found {self.size / 1e9:.1f} GB unpacked'
            )
        return b''.join(self._pieces())

    def copy(self, path: Path) -> None:
        """Unpacks the content into the file `path` without holding all of it in memory.

        The method is an argument `data` of `Preparation.write`.

        Raises:
            UserError: The content is truncated, or its checksum is wrong.
        """
        with path.open('wb') as out:
            for piece in self._pieces():
                out.write(piece)

    def _pieces(self) -> Iterator[bytes]:
        try:
            found = 0
            with self.archive.open(self.info) as file:
                while piece := file.read(1 << 20):
                    found += len(piece)
                    yield piece
            # zipfile never reads more than the declared size, but accepts less.
            if found != self.size:
                raise ValueError(f'expected {self.size} bytes, found {found}')
        except BROKEN as error:
            raise UserError(
                f'{self.archive.filename}: {self.name}: cannot be unpacked, the archive is broken '
                f'({error}); get it again'
            ) from None


def members(path: Path) -> list[Member]:
    """Returns the files in a zip archive, in its order, after a check of all names.

    Raises:
        UserError: The file is not a complete zip archive, or a member is a symbolic link, has the
            name of another member, or has a name that could lead outside the folder that it is
            unpacked to. One such member makes the whole archive unusable.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(
            f'{path}: expected a zip archive, found a truncated one or another file ({error}); '
            'get it again'
        ) from None
    names = set()
    for info in archive.infolist():
        why = escapes(info.filename)
        if stat.S_ISLNK(info.external_attr >> 16):
            why = 'is a symbolic link'
        if info.filename in names:
            why = 'is there twice'
        names.add(info.filename)
        if why:
            archive.close()
            raise UserError(f'{path}: refused: member {info.filename!r} {why}')
    return [Member(archive, info) for info in archive.infolist() if not info.is_dir()]


def escapes(name: str) -> str:
    """Returns why a relative path could lead outside its folder, on any system; '' if it cannot."""
    if not name:
        return 'has no name'
    if re.match(r'[/\\]', name):
        return 'has an absolute path'
    if re.match(r'[A-Za-z]:', name):
        return 'names a drive'
    if '..' in re.split(r'[/\\]', name):
        return "leads out of its folder by '..'"
    if re.search(r'[\x00-\x1f]', name):
        return 'has a control character in its name'
    return ''
