"""Hashes of the contents of files, remembered so that opening the same data again is fast."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import digest, writing

FRESH = 2.0
"""Seconds after a change in which a hash is not remembered: a file that is written twice within one
tick of the file system's clock keeps its size and time."""

LARGE = 2 << 30
"""Bytes to read from which on the terminal says so, because it takes more than a few seconds."""


def contents(files: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of the content of each file.

    What was hashed is remembered in a file of the user's cache folder, by size, time of change and
    inode. A file that differs in one of these is read again.

    Args:
        files: The files of one data set.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    paths = [str(file.absolute()) for file in files]
    if not paths:
        return []
    root = os.path.commonpath(paths)
    memory = _folder() / f'{hashlib.sha256(root.encode()).hexdigest()[:16]}.json'
    known = _remembered(memory)
    marks = [_mark(file, files) for file in files]
    new = [k for k, mark in enumerate(marks) if known.get(paths[k], [])[:3] != mark]
    total = sum(marks[k][0] for k in new)
    if total > LARGE:
        text = f'{root}: reading {len(new):,} files ({total / 2**30:.0f} GiB) once, '
        print(f'{text}to recognise the data by their content', flush=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = dict(zip(new, pool.map(_content, [files[k] for k in new]), strict=True))
    found = [read[k] if k in read else known[path][3] for k, path in enumerate(paths)]
    if new:
        settled = (time.time() - FRESH) * 1e9
        rows = zip(paths, marks, found, strict=True)
        kept = {path: [*mark, sha] for path, mark, sha in rows if mark[1] < settled}
        # Without a writable cache folder nothing is remembered, and everything still works.
        with contextlib.suppress(UserError), writing(memory) as file:
            file.write(json.dumps({**known, **kept}).encode())
    return found


def _folder() -> Path:
    """Returns the folder of this project in the user's cache folder (XDG base directories)."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'incomplete-multimodal-benchmark' / 'hashes'


def _remembered(memory: Path) -> dict[str, Any]:
    """Returns path -> [size, time, inode, hash]; what is not of this form is left out."""
    try:
        found = json.loads(memory.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    rows = found.items() if isinstance(found, Mapping) else ()
    return {path: row for path, row in rows if isinstance(row, list) and _whole(row)}


def _whole(row: list[Any]) -> bool:
    return len(row) == 4 and isinstance(row[3], str) and len(row[3]) == 64


def _mark(file: Path, files: Sequence[Path]) -> list[int]:
    """Returns size in bytes, time of the last change in nanoseconds, and inode."""
    try:
        found = file.stat()
    except OSError:
        missing = sum(not other.exists() for other in files) - 1
        more = f' (nor for {missing} more of {len(files)})' if missing > 0 else ''
        raise UserError(f'{file}: expected a file, found nothing there{more}') from None
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _content(file: Path) -> str:
    try:
        return digest(file).sha256
    except OSError as error:
        raise UserError(f'{file}: cannot be read: {error.strerror or error}') from None
