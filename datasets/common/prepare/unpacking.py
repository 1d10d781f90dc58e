"""Unpacks the archives of a source of volumes for the time of a preparation."""

from __future__ import annotations

import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmark.errors import UserError
from datasets.common.io.folders import VOLUMES, entries, is_litter
from datasets.common.prepare.archives import escapes
from datasets.common.prepare.preparation import Preparation

TARS = ('.tar', '.tar.gz', '.tgz')
ARCHIVES = ('.zip', *TARS)

BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError)
"""What tarfile raises on archives that are truncated or damaged."""


@contextmanager
def unpacked(work: Preparation) -> Iterator[Path]:
    """Yields the folder of volumes that a source is, or that its archives hold.

    The source is a folder, an archive, or a folder of archives without other folders. Archives are
    unpacked beside the target, and what was unpacked is removed at the end.

    Raises:
        UserError: The source is another file, an archive is broken or has a member that cannot be
            unpacked safely, or the disk has no room for it.
    """
    archives = _archives(work.source)
    if not archives:
        yield work.source
        return
    beside = next(p for p in work.target.absolute().parents if p.is_dir())
    with tempfile.TemporaryDirectory(prefix='.unpacked-', dir=beside) as folder:
        try:
            for archive in archives:
                unpack = _untar if archive.name.lower().endswith(TARS) else _unzip
                unpack(work, archive, Path(folder))
            yield _inner(Path(folder))
        except UserError as error:
            raise UserError(str(error).replace(folder, str(work.source))) from None
        finally:
            # What is told must not name files that are gone.
            work.remarks.kinds = {
                kind: {text.replace(folder, str(work.source)): None for text in texts}
                for kind, texts in work.remarks.kinds.items()
            }


def _inner(folder: Path) -> Path:
    """Returns the folder of cases: an archive may hold it inside others, each the only one."""
    while len(there := entries(folder)) == 1 and there[0].is_dir():
        if not any(path.is_dir() for path in entries(there[0])):
            break  # a single case
        folder = there[0]
    return folder


def _archives(source: Path) -> list[Path]:
    """Returns the archives to unpack, none of a folder that holds folders."""
    if source.is_dir():
        there = [path for path in entries(source) if not is_litter(path.name)]
        found = [path for path in there if path.name.lower().endswith(ARCHIVES)]
        return [] if any(path.is_dir() for path in there) else found
    if not source.name.lower().endswith(ARCHIVES):
        raise UserError(f'{source}: expected a folder or a {", ".join(ARCHIVES)}, found a file')
    return [source]


def _wanted(work: Preparation, archive: Path, name: str) -> bool:
    """Returns whether a member is one that volumes are made of; others are named."""
    last = name.rpartition('/')[2]
    wanted = last.lower().endswith((*VOLUMES, '.json')) and not any(map(is_litter, name.split('/')))
    if not wanted:
        work.remarks.add('members of archives left out, for they are no volumes', name)
    return wanted


def _place(folder: Path, archive: Path, name: str) -> Path:
    path = folder / name
    if path.exists():
        raise UserError(f'{archive}: refused: member {name!r} is there twice')
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _unzip(work: Preparation, archive: Path, folder: Path) -> None:
    for member in work.members(archive):
        if _wanted(work, archive, member.name):
            member.copy(_place(folder, archive, member.name))


def _untar(work: Preparation, archive: Path, folder: Path) -> None:
    """Unpacks the files of a tar archive; links, devices and names that lead outside are refused.

    Raises:
        UserError: See `unpacked`.
    """
    try:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if not member.isdir()]
            for member in members:
                why = '' if member.isreg() else 'is no regular file'
                if why := why or escapes(member.name):
                    raise UserError(f'{archive}: refused: member {member.name!r} {why}')
            wanted = [m for m in members if _wanted(work, archive, m.name.removeprefix('./'))]
            work.need(sum(member.size for member in wanted))
            for member in wanted:
                _copy(tar, member, _place(folder, archive, member.name.removeprefix('./')))
    except UserError:
        raise
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the disk
        raise UserError(
            f'{archive}: cannot be unpacked, the archive is broken ({error}); get it again'
        ) from None


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Writes one member to a file without holding all of it in memory."""
    source, found = tar.extractfile(member), 0
    with path.open('wb') as out:
        while source is not None and (piece := source.read(1 << 20)):
            found += out.write(piece)
    if found != member.size:
        raise ValueError(f'{member.name}: expected {member.size} bytes, found {found}')
