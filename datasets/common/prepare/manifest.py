"""What a prepared folder says of itself: sources, counts, and each file's size and hash."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import UserError
from benchmark.files import Entry

MANIFEST = 'manifest.json'
FORMAT = 1
"""To be raised when a preparation writes something else: older targets are then refused."""


class Source(NamedTuple):
    """What was prepared from: an archive, or a folder with its number of files and their bytes."""

    files: int
    size: int


class Manifest(NamedTuple):
    """The content of a manifest.

    Attributes:
        dataset: Registered name.
        sources: Name -> what was found under it.
        counts: Split -> number of samples.
        files: Path below the folder, with '/' -> the file.
    """

    dataset: str
    sources: dict[str, Source]
    counts: dict[str, int]
    files: dict[str, Entry]

    def dumps(self) -> bytes:
        """Returns the text; the same content gives the same bytes."""
        content: dict[str, Any] = {'dataset': self.dataset, 'format': FORMAT, 'counts': self.counts}
        content['sources'] = {name: s._asdict() for name, s in sorted(self.sources.items())}
        content['files'] = {name: f._asdict() for name, f in sorted(self.files.items())}
        return f'{json.dumps(content, indent=1)}\n'.encode()


def read_manifest(root: Path) -> Manifest | None:
    """Returns the manifest of a folder, or None where there is none.

    Raises:
        UserError: It is torn, foreign, or of another format.
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
    """Returns how many files a path holds, itself or below it, and their bytes."""
    if path.is_file():
        return Source(1, path.stat().st_size)
    sizes = [
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    ]
    return Source(len(sizes), sum(sizes))
