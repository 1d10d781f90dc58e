"""The manifest of a prepared folder: its sources, sample counts, and files with their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.files import Entry
from datasets.common.io.folders import walk_all
from datasets.common.io.paths import has_file
from datasets.common.io.remembered import combined, hashes

MANIFEST = 'manifest.json'
FORMAT = 2
"""Version of the prepared files. A preparation that writes other files must raise it, so that
folders of the older version are refused."""


class Source(NamedTuple):
    """What identifies an archive, or a folder, that a target was prepared from.

    Attributes:
        files: Number of files; 1 for an archive.
        size: Their size in bytes, all together.
        sha256: Hash of their names and contents; empty in manifests of earlier versions.
    """

    files: int
    size: int
    sha256: str = ''


class Manifest(NamedTuple):
    """The content of a manifest.

    Attributes:
        dataset: Registered name of the data set.
        sources: Name of a source -> its size and hash.
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
    if not has_file(path):
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
    """Returns number, size and hash of the files below a folder, or of a single file.

    Contents are read once and remembered (`datasets.common.io.remembered`).

    Raises:
        UserError: A file cannot be read.
    """
    files = [path] if path.is_file() else list(walk_all(path))
    names = [file.relative_to(path).as_posix() for file in files]
    size = sum(file.stat().st_size for file in files)
    found = combined(f'{n}:{h}' for n, h in zip(names, hashes(files), strict=True))
    return Source(len(files), size, found)


def compare(target: Path, name: str, expected: Source, found: Source) -> None:
    """Checks that a source is the one that a target was prepared from.

    Raises:
        UserError: It is another one.
    """
    if not expected.sha256:
        expected = expected._replace(sha256=found.sha256)
    if expected == found:
        return
    if expected[:2] == found[:2]:
        told = f'expected the content that {name} had, found other content of the same size'
    else:
        told = (
            f'expected {name} of {expected.size} bytes in {expected.files} files, found '
            f'{found.size} in {found.files}'
        )
    raise UserError(
        f'{target}: was prepared from another source: {told}; prepare into another folder'
    )
