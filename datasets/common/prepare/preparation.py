"""Preparing a data root from official archives: safe to kill, to repeat and to check.

A dataset that can be prepared defines

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        archive = work.find('nyu_depth_v2_labeled.mat')
        work.need(2 * 10**9)
        with work.steps(1449, 'frames') as step:
            for i in range(1449):
                work.write(f'rgb/{i:04d}.png', lambda path, i=i: save(frame(i), path))
                step()
        work.finish({'train': 795, 'test': 654})

While it runs, the target holds a journal of what is finished; killed at any time, the same command
goes on from there. The last thing written is `manifest.json`, with the size and SHA-256 of every
file: a target that has it is whole.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from benchmark.errors import UserError
from benchmark.files import Entry, digest, replacing, sync_folder
from datasets.common.prepare.archives import Member, escapes, members
from datasets.common.prepare.journal import Journal
from datasets.common.prepare.manifest import MANIFEST, Manifest, Source, measure, read_manifest
from datasets.common.prepare.steps import Steps


class SourceError(UserError):
    """The source lacks what the preparation needs; the command adds how to get it."""


class Preparable(Protocol):
    """A data set class that can prepare its root from what its publishers distribute."""

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the files of the root by `work.write`, and ends with `work.finish`."""


class Preparation:
    """One run of a preparation into a target folder.

    Nothing is written before the first `write`, which may be called from several threads.

    Args:
        dataset: Registered name.
        source: The official archive, or the folder that holds the archives or what was in them.
        target: The folder to prepare: new, empty, or begun by an earlier run.

    Raises:
        SourceError: There is no such source.
        UserError: The target is another dataset's, or no folder of a preparation at all.
    """

    def __init__(self, dataset: str, source: Path, target: Path) -> None:
        self.dataset, self.target = dataset, Path(target)
        self.source = Path(os.path.abspath(source))
        if not self.source.exists():
            raise SourceError(f'{source}: expected the source of {dataset}, found nothing there')
        self._journal = Journal(self.target, dataset)
        self._sources: dict[str, Source] = {}
        self._written: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def run(self, cls: type[Preparable]) -> bool:
        """Prepares the target by `cls.prepare`; returns False if it was whole already.

        Of a target that was whole, files that are missing or changed their size are made again.

        Raises:
            UserError: In one line, what is wrong with the source or the target.
        """
        try:
            with self._speaking(self.source):
                if self._whole():
                    return False
                cls.prepare(self)
        finally:
            self._journal.close()
        if not (self.target / MANIFEST).is_file():
            raise RuntimeError(f'{cls.__name__}.prepare ended without work.finish(counts)')
        return True

    def find(self, *names: str) -> Path:
        """Returns the first of the names that exists: in the source folder, or the source itself.

        What was found is remembered by name and size, and a begun or whole target accepts nothing
        else; other files beside it do not matter. Without any `find`, the whole source counts.

        Args:
            names: Relative paths of a file or folder under each name that it may have.

        Raises:
            SourceError: None of them is there.
            UserError: The target was begun from another one.
        """
        for name in names:
            path = self._path(name)
            if path.exists():
                self._remember(name, path)
                return path
        raise SourceError(f'{self.source}: expected {" or ".join(names)}, found {self._listing()}')

    def members(self, archive: Path) -> list[Member]:
        """Returns the files in a zip archive, once all their names are known to be safe.

        Each has `name`, `size`, `read()` and `copy`, which is `write`'s `data` as it is:
        `work.write(member.name, member.copy)`.

        Raises:
            UserError: The archive is broken; or a member is a link, or has a name that leads out
                of the folder it is unpacked to, and then none of them can be read.
        """
        return members(archive)

    def need(self, size: int) -> None:
        """Checks that the disk has room for the target; to be called before the first `write`.

        Args:
            size: Bytes of the whole target; what an earlier run has written is taken off.

        Raises:
            UserError: There is less room.
        """
        missing = size - sum(entry.size for entry in self._journal.files.values())
        there = next(p for p in (self.target, *self.target.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(there).free
        if free < missing:
            raise UserError(
                f'{self.target}: expected {missing / 1e9:.1f} GB of free disk space, '
                f'found {free / 1e9:.1f} GB'
            )

    def steps(self, total: int, what: str = 'files') -> Steps:
        """Returns a progress bar: `with work.steps(1449, 'frames') as step: ... step()`."""
        return Steps(total, what)

    def write(self, relative: str, data: bytes | Callable[[Path], None]) -> None:
        """Writes one file of the target whole or not at all; skipped if an earlier run has.

        Args:
            relative: Path below the target, with '/'.
            data: The bytes; or what writes them to the path it is given, which has the same
                ending as `relative`, and is not called if the file is there. The same source must
                give the same bytes: no times, no random numbers.

        Raises:
            UserError: The target cannot be written, or the source holds two files of this name.
        """
        if why := escapes(relative):
            raise UserError(f'{self.source}: refused: {relative!r} {why}')
        path = self.target / relative
        with self._lock, self._speaking(self.target):
            if relative in self._written:
                raise UserError(f'{self.source}: expected one file {relative!r}, found two')
            self._open()
            entry = self._written[relative] = self._journal.files.get(relative, Entry(-1, ''))
        if entry.fits(path):
            return
        with self._speaking(self.target):
            entry = _written(path, data)
            with self._lock:
                self._written[relative] = entry
                self._journal.add(relative, entry)

    def finish(self, counts: dict[str, int]) -> None:
        """Writes the manifest, last of all, and removes the journal.

        Args:
            counts: Split -> number of samples prepared.

        Raises:
            UserError: The target cannot be written.
        """
        with self._speaking(self.target):
            self._open()
            # A manifest promises files: their names must be on the disk before its own.
            for folder in {(self.target / name).parent for name in self._written}:
                sync_folder(folder)
            manifest = Manifest(self.dataset, self._sources, counts, self._written)
            _written(self.target / MANIFEST, manifest.dumps())
            sync_folder(self.target)
            self._journal.remove()

    def _path(self, name: str) -> Path:
        inside = self.source / name
        itself = self.source.name == Path(name).name and not inside.exists()
        return self.source if itself else inside

    def _listing(self) -> str:
        if self.source.is_file():
            return 'a file of another name'
        there = sorted(path.name for path in self.source.iterdir())
        return ', '.join(there[:8]) + (', ...' if there[8:] else '') or 'an empty folder'

    def _remember(self, name: str, path: Path) -> None:
        if path in Path(os.path.abspath(self.target)).parents:
            raise UserError(f'{self.target}: expected a folder outside the source {path}')
        found = measure(path)
        _compare(self.target, name, self._journal.sources.get(name, found), found)
        self._sources[name] = found

    def _open(self) -> None:
        """Opens the journal, and notes the sources that it does not know."""
        self._journal.open()
        if not self._sources:
            self._remember(self.source.name, self.source)
        for name, source in self._sources.items():
            self._journal.add_source(name, source)

    def _whole(self) -> bool:
        """Returns whether nothing is left to do."""
        manifest = read_manifest(self.target)
        if manifest is None:
            return False
        if manifest.dataset != self.dataset:
            raise UserError(
                f'{self.target}: expected {self.dataset} or nothing, found {manifest.dataset}; '
                'prepare into another folder'
            )
        for name, source in manifest.sources.items():
            _compare(self.target, name, source, measure(self._path(name)))
        whole = all(entry.fits(self.target / name) for name, entry in manifest.files.items())
        with self._speaking(self.target):
            if not whole:
                self._journal.adopt(manifest)
            elif self._journal.path.exists():
                self._journal.remove()
        return whole

    @contextmanager
    def _speaking(self, where: Path) -> Iterator[None]:
        """Turns errors of the file system into one line, about `where` if they name no file."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            kept = len(self._journal.files)
            raise UserError(
                f'{error.filename or where}: {os.strerror(error.errno)}; {kept} finished files are '
                f'kept in {self.target}, and the same command goes on from there'
            ) from error


def _written(path: Path, data: bytes | Callable[[Path], None]) -> Entry:
    """Writes a file of the target and returns what the manifest says of it."""
    with replacing(path, claimed=True) as part:
        if callable(data):
            data(part)
        else:
            part.write_bytes(data)
        return digest(part)


def _compare(target: Path, name: str, expected: Source, found: Source) -> None:
    if expected != found:
        raise UserError(
            f'{target}: was prepared from another source: expected {name} of {expected.size} bytes '
            f'in {expected.files} files, found {found.size} in {found.files}; '
            'prepare into another folder'
        )
