"""Preparation of a data root from official archives, which can be interrupted and repeated.

A data set that needs a preparation defines

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        archive = work.find('nyu_depth_v2_labeled.mat')
        work.need(2 * 10**9)
        with work.steps(1449, 'frames') as step:
            for i in range(1449):
                work.write(f'rgb/{i:04d}.png', lambda path, i=i: save(frame(i), path))
                step()
        work.finish({'train': 795, 'test': 654})

While it runs, a journal in the target lists the finished files. When a preparation has been killed,
the same command continues it. The last file written is `manifest.json`, with the size and SHA-256
of every other file: a target that has a manifest is complete.
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
from datasets.common.prepare.findings import Findings
from datasets.common.prepare.journal import Journal
from datasets.common.prepare.manifest import (
    MANIFEST,
    Manifest,
    Source,
    compare,
    measure,
    read_manifest,
)
from datasets.common.prepare.steps import Steps


class SourceError(UserError):
    """A file is missing from the source; the command adds to the message how to get the data."""


class Preparable(Protocol):
    """A data set class that can prepare its root from what its publishers distribute."""

    @classmethod
    def prepare(cls, work: Preparation) -> None:
        """Writes the files of the root by `work.write`, and ends with `work.finish`."""


class Preparation:
    """One run of a preparation, which fills a target folder.

    Nothing is written before the first call of `write`. Several threads may call `write`.

    Args:
        dataset: Registered name of the data set.
        source: The official archive, or the folder that holds the archives or their content.
        target: The folder to prepare. It is new or empty, or an earlier run has written it.

    Attributes:
        remarks: What the user ought to know of the source.

    Raises:
        SourceError: The source does not exist.
        UserError: The target belongs to another data set, or holds files that no preparation has
            written.
    """

    def __init__(self, dataset: str, source: Path, target: Path) -> None:
        self.dataset, self.target, self.remarks = dataset, Path(target), Findings()
        self.source = Path(os.path.abspath(source))
        if not self.source.exists():
            raise SourceError(f'{source}: expected the source of {dataset}, found nothing there')
        self._journal = Journal(self.target, dataset)
        self._sources: dict[str, Source] = {}
        self._written: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def run(self, cls: type[Preparable]) -> bool:
        """Prepares the target by `cls.prepare`; returns False if it was complete already.

        In a target that was complete once, files that are missing or have another size are written
        again.

        Args:
            cls: The data set class.

        Raises:
            UserError: The source or the target is unusable; the message is one line.
            RuntimeError: `cls.prepare` has not called `finish`.
        """
        try:
            with self._one_line_errors(self.source):
                if self._whole():
                    return False
                cls.prepare(self)
        finally:
            self._journal.close()
        if not (self.target / MANIFEST).is_file():
            raise RuntimeError(f'{cls.__name__}.prepare ended without work.finish(counts)')
        return True

    def find(self, *names: str) -> Path:
        """Returns the path of a file or folder of the source.

        Its name, size and hash are stored in the target, and a later run into the same target
        accepts no other file in its place. Other files in the source folder do not matter. If a
        preparation never calls `find`, those of the whole source are stored.

        Args:
            names: The names that the file or folder may have, as paths below the source folder; the
                first that exists is taken. The source itself may also have one of these names.

        Raises:
            SourceError: None of the names exists.
            UserError: The target was begun from another file, or lies inside the one found.
        """
        for name in names:
            path = self._path(name)
            if path.exists():
                self._remember(name, path)
                return path
        raise SourceError(f'{self.source}: expected {" or ".join(names)}, found {self._listing()}')

    def members(self, archive: Path) -> list[Member]:
        """Returns the files in a zip archive after a check of all names.

        `work.write(member.name, member.copy)` unpacks one into the target.

        Raises:
            UserError: The archive is broken, unpacks to more than the disk has room for, or has a
                member that `archives.members` refuses.
        """
        found = members(archive)
        self.need(sum(member.size for member in found))
        return found

    def need(self, size: int) -> None:
        """Checks that the disk has room for the target; call it before the first `write`.

        Args:
            size: Size of the complete target in bytes. Files that an earlier run has finished need
                no more room.

        Raises:
            UserError: The disk has less room.
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
        """Returns a progress bar: `with work.steps(1449, 'frames') as step: ... step()`.

        Args:
            total: Number of steps.
            what: What is counted, in the plural.
        """
        return Steps(total, what)

    def write(self, relative: str, data: bytes | Callable[[Path], None]) -> None:
        """Writes one file of the target, completely or not at all.

        A file that an earlier run has finished is not written again.

        Args:
            relative: Path below the target, with '/'.
            data: The content; or a callable that writes it to a given path, which ends like
                `relative`. It is not called if the file is finished. The same source must always
                give the same content, without times and random numbers.

        Raises:
            UserError: The target cannot be written, this run has written a file of this name
                already, or the name could lead outside the target.
        """
        if why := escapes(relative):
            raise UserError(f'{self.source}: refused: {relative!r} {why}')
        path = self.target / relative
        with self._lock, self._one_line_errors(self.target):
            if relative in self._written:
                raise UserError(f'{self.source}: expected one file {relative!r}, found two')
            self._open()
            entry = self._written[relative] = self._journal.files.get(relative, Entry(-1, ''))
        if entry.fits(path):
            return
        with self._one_line_errors(self.target):
            entry = _written(path, data)
            with self._lock:
                self._written[relative] = entry
                self._journal.add(relative, entry)

    def finish(self, counts: dict[str, int]) -> None:
        """Completes the target: writes the manifest and removes the journal.

        Args:
            counts: Split -> number of prepared samples.

        Raises:
            UserError: The target cannot be written.
        """
        with self._one_line_errors(self.target):
            self._open()
            # A manifest says that its files exist, so their names must be on the disk before it.
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
        compare(self.target, name, self._journal.sources.get(name, found), found)
        self._sources[name] = found

    def _open(self) -> None:
        """Opens the journal and adds the sources that it does not list."""
        self._journal.open()
        if not self._sources:
            self._remember(self.source.name, self.source)
        for name, source in self._sources.items():
            self._journal.add_source(name, source)

    def _whole(self) -> bool:
        """Returns whether the target is complete already."""
        manifest = read_manifest(self.target)
        if manifest is None:
            return False
        if manifest.dataset != self.dataset:
            raise UserError(
                f'{self.target}: expected {self.dataset} or nothing, found {manifest.dataset}; '
                'prepare into another folder'
            )
        for name, source in manifest.sources.items():
            compare(self.target, name, source, measure(self._path(name)))
        whole = all(entry.fits(self.target / name) for name, entry in manifest.files.items())
        with self._one_line_errors(self.target):
            if not whole:
                self._journal.adopt(manifest)
            elif self._journal.path.exists():
                self._journal.remove()
        return whole

    @contextmanager
    def _one_line_errors(self, where: Path) -> Iterator[None]:
        """Turns an OSError into a UserError of one line, about `where` if it names no file."""
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
    """Writes a file of the target and returns its size and hash."""
    with replacing(path, claimed=True) as part:
        if callable(data):
            data(part)
        else:
            part.write_bytes(data)
        return digest(part)
