"""The manifest of a prepared folder: its sources, sample counts, and files with their hashes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.files import Entry

MANIFEST = 'manifest.json'
FORMAT = 2
"""Version of the prepared files. A preparation that writes other files must raise it, so that
folders of the older version are refused."""


class Source(NamedTuple):
    """The size of an archive, or of a folder, that a target was prepared from.

    Attributes:
        files: Number of files; 1 for an archive.
        size: Their size in bytes, all together.
    """

    files: int
    size: int


class Manifest(NamedTuple):
    """The content of a manifest.

    Attributes:
        dataset: Registered name of the data set.
        sources: Name of a source -> its size.
        counts: Split -> number of samples.
        files: Path below the folder, with '/' -> size and hash of the file.
    """

    dataset: str
    sources: dict[str, Source]
    counts: dict[str, int]
    files: dict[str, Entry]

    def dumps(self) -> bytes:
        """Returns the manifest as JSON; equal manifests give equal bytes."""
        content: dict[str, Any] = {'dataset': self.dataset, 'format': FORMAT, 'counts': self.counts}
        content['sources'] = {name: s._asdict() for name, s in sorted(self.sources.items())}
        content['files'] = {name: f._asdict() for name, f in sorted(self.files.items())}
        return f'{json.dumps(content, indent=1)}\n'.encode()


def read_manifest(root: Path) -> Manifest | None:
    """Returns the manifest of a folder, or None if the folder has none.

    Raises:
        UserError: The manifest cannot be read, is incomplete, or has another format.
    """
    path = root / MANIFEST
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        if content['format'] != FORMAT:
            raise UserError(
                f'{path}: expected format {FORMAT}, found {content["format"]!r}; '
                'prepare into a new folder'
            )
        return Manifest(
            str(content['dataset']),
            {name: Source(**source) for name, source in content['sources'].items()},
            dict(content['counts']),
            {name: Entry(**entry) for name, entry in content['files'].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{path}: cannot be read as a manifest ({error}); prepare into a new folder'
        ) from None


def measure(path: Path) -> Source:
    """Returns the number and the size of the files below a folder, or of a single file."""
    if path.is_file():
        return Source(1, path.stat().st_size)
    sizes = [
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    ]
    return Source(len(sizes), sum(sizes))


def changed_since(path: Path, other: Path) -> list[str]:
    """Returns the files below a folder, or the file itself, modified after another file."""
    files = [path] if path.is_file() else [p for p in sorted(path.rglob('*')) if p.is_file()]
    time = other.stat().st_mtime_ns
    return [str(file) for file in files if file.stat().st_mtime_ns > time]


def compare(target: Path, name: str, expected: Source, found: Source) -> None:
    """Checks that a source has the size of the one that a target was prepared from.

    Raises:
        UserError: It has another one.
    """
    if expected != found:
        raise UserError(
            f'{target}: was prepared from another source: expected {name} of {expected.size} bytes '
            f'in {expected.files} files, found {found.size} in {found.files}; '
            'prepare into another folder'
        )
