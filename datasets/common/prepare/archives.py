"""Reading zip archives of others: no member leaves the target, and a broken archive says so."""

from __future__ import annotations

import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
"""What zipfile raises on archives that are torn, encrypted or packed in ways it does not know."""


@dataclass(frozen=True)
class Member:
    """One file in an archive.

    Attributes:
        archive: The open archive.
        info: Its entry.
    """

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    @property
    def name(self) -> str:
        """Path inside the archive, with '/'; it stays below any folder that it is joined to."""
        return self.info.filename

    @property
    def size(self) -> int:
        """Bytes when unpacked."""
        return self.info.file_size

    def read(self) -> bytes:
        """Returns the content.

        Raises:
            UserError: It is torn, or its checksum is wrong.
        """
        return b''.join(self._pieces())

    def copy(self, path: Path) -> None:
        """Writes the content to a file, piece by piece; as `write`'s `data`.

        Raises:
            UserError: It is torn, or its checksum is wrong.
        """
        with path.open('wb') as out:
            for piece in self._pieces():
                out.write(piece)

    def _pieces(self) -> Iterator[bytes]:
        try:
            with self.archive.open(self.info) as file:
                while piece := file.read(1 << 20):
                    yield piece
        except BROKEN as error:
            raise UserError(
                f'{self.archive.filename}: {self.name}: cannot be unpacked, the archive is broken '
                f'({error}); get it again'
            ) from None


def members(path: Path) -> list[Member]:
    """Returns the files in a zip archive in its order, once all their names are known to be safe.

    Raises:
        UserError: It is no whole zip archive; or a member is a link or has a name that leads out
            of the folder it is unpacked to, and then nothing of the archive can be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(
            f'{path}: expected a zip archive, found a torn one or another file ({error}); '
            'get it again'
        ) from None
    for info in archive.infolist():
        why = escapes(info.filename)
        if stat.S_ISLNK(info.external_attr >> 16):
            why = 'is a symbolic link'
        if why:
            archive.close()
            raise UserError(f'{path}: refused: member {info.filename!r} {why}')
    return [Member(archive, info) for info in archive.infolist() if not info.is_dir()]


def escapes(name: str) -> str:
    """Returns in what way a relative path may lead out of its folder, on any system, or ''."""
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
