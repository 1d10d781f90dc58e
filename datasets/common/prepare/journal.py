"""The journal of an unfinished preparation, from which the next run continues.

Hashing the finished files again on resuming could not replace the journal: it would read the whole
target (12 GB of Cityscapes) and could not tell which files have changed their size, while a file
would still be needed for the sources, for the lock against a second process, and as the evidence
that the folder belongs to a preparation.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, TextIO

from benchmark.errors import UserError
from benchmark.files import Entry
from datasets.common.prepare.manifest import FORMAT, MANIFEST, Manifest, Source

JOURNAL = '.preparing'
"""Name of the journal in the target folder."""


class Journal:
    """A file of JSON lines: the data set, then the sources and every finished file.

    Args:
        target: The folder that is prepared.
        dataset: Registered name of the data set.

    Attributes:
        sources: Name of a source -> its size and hash, as found by this run or an earlier one.
        files: Path below the target -> size and hash of the finished file.

    Raises:
        UserError: The target belongs to another data set, holds files that no preparation has
            written, or has a journal that cannot be read.
    """

    def __init__(self, target: Path, dataset: str) -> None:
        self.target, self.dataset = target, dataset
        self.path = target / JOURNAL
        self.sources: dict[str, Source]
        self.files: dict[str, Entry]
        self._file: TextIO | None = None
        self._whole_bytes = self._load()

    def open(self) -> None:
        """Locks the target for this process and opens the journal for writing.

        Raises:
            UserError: Another process is preparing the target.
            OSError: The target cannot be written.
        """
        if self._file is not None:
            return
        self.target.mkdir(parents=True, exist_ok=True)
        file = self.path.open('a', encoding='utf-8')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise UserError(f'{self.target}: another process is preparing it') from None
        # A process that has just ended may have added lines, and an incomplete last one.
        self._whole_bytes = self._load()
        file.truncate(self._whole_bytes)
        self._file = file
        if not self._whole_bytes:
            self._append({'dataset': self.dataset, 'format': FORMAT})

    def adopt(self, manifest: Manifest) -> None:
        """Starts the journal of a finished target that lacks files; removes the manifest."""
        self.open()
        for name, source in manifest.sources.items():
            self.add_source(name, source)
        for name, entry in manifest.files.items():
            self.add(name, entry)
        os.fsync(self._opened().fileno())
        (self.target / MANIFEST).unlink()

    def add_source(self, name: str, source: Source) -> None:
        """Adds a source."""
        if self.sources.get(name) != source:
            self._append({'source': name, **source._asdict()})
            self.sources[name] = source

    def add(self, name: str, entry: Entry) -> None:
        """Adds a finished file."""
        self._append({'file': name, **entry._asdict()})
        self.files[name] = entry

    def close(self) -> None:
        """Closes the journal and unlocks the target."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Removes the journal, once the target is complete."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, note: dict[str, Any]) -> None:
        file = self._opened()
        file.write(f'{json.dumps(note)}\n')
        file.flush()

    def _opened(self) -> TextIO:
        if self._file is None:
            raise RuntimeError(f'{self.path}: expected `open` to be called first')
        return self._file

    def _load(self) -> int:
        """Reads the journal; returns the number of bytes in its complete lines."""
        self.sources, self.files = {}, {}
        if not self.path.is_file():
            self._check_empty()
            return 0
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b'\n') + 1]
        for number, line in enumerate(whole.splitlines()):
            try:
                self._take(number, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f'{self.path}: line {number + 1}: cannot be read ({error}); '
                    f'remove {self.target} and prepare again'
                ) from None
        return len(whole)

    def _take(self, number: int, note: dict[str, Any]) -> None:
        if number == 0:
            if (note['dataset'], note['format']) != (self.dataset, FORMAT):
                raise UserError(
                    f'{self.target}: expected a begun preparation of {self.dataset} '
                    f'(format {FORMAT}), found one of {note["dataset"]} (format {note["format"]}); '
                    'prepare into a new folder'
                )
        elif 'source' in note:
            more = {'sha256': note['sha256']} if 'sha256' in note else {}
            self.sources[note['source']] = Source(note['files'], note['size'], **more)
        else:
            self.files[note['file']] = Entry(note['size'], note['sha256'])

    def _check_empty(self) -> None:
        if self.target.exists() and not self.target.is_dir():
            raise UserError(f'{self.target}: expected a folder, found a file')
        if not self.target.is_dir() or (self.target / MANIFEST).is_file():
            return
        if found := sorted(p.name for p in self.target.iterdir()):
            raise UserError(
                f'{self.target}: expected a new or empty folder, or one that a preparation of '
                f'{self.dataset} has begun; found {found[0]}' + (', ...' if found[1:] else '')
            )
