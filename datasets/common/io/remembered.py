"""What a slow look at a file found, remembered until the file changes, so that data open fast.

What is remembered lies in one database in the user's cache folder. It may be deleted at any time:
files are then looked at again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import cache_folder, digest

SETTLED = 2.0
"""Seconds after its last change from which on a file is remembered.

The clock of a file system ticks in milliseconds, so that a second change within one tick would go
unnoticed."""

THREADS = min(8, os.cpu_count() or 1)
PATIENCE = 5.0
"""Seconds between two lines that say how far a long look has come."""


def hashes(paths: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of the contents of files, in their order; unchanged files are not read.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    return remembered('sha256', paths, _content)


def combined(contents: Iterable[str]) -> str:
    """Returns one hash of several, such as those of all files of a sample."""
    return hashlib.sha256('/'.join(contents).encode()).hexdigest()


def _content(path: Path) -> str:
    return digest(path).sha256


def remembered(kind: str, paths: Sequence[Path], look: Callable[[Path], str]) -> list[str]:
    """Returns what a function finds in files; unchanged files are not looked at again.

    A file counts as changed if its size, its inode, or the time of its last change differs.

    Args:
        kind: Name of the function with everything but the file that its result depends on.
        paths: The files.
        look: Maps a file to a text; called in threads.

    Raises:
        UserError: A file is missing or cannot be read, or `look` raises it.
    """
    places = [str(path.absolute()) for path in paths]
    states = _states(paths)
    known = _recall(kind, places)
    fresh = [k for k, place in enumerate(places) if known.get(place, ('',))[0] != states[k]]
    for k, text in zip(fresh, _looked([paths[k] for k in fresh], look), strict=True):
        known[places[k]] = states[k], text
    now = time.time_ns()
    settled = [k for k in fresh if now - int(states[k].split()[1]) > SETTLED * 1e9]
    _store([(kind, places[k], *known[places[k]]) for k in settled])
    return [known[place][1] for place in places]


def _states(paths: Sequence[Path]) -> list[str]:
    """Returns what tells that a file has changed: size, latest time in nanoseconds, and inode."""
    found, missing = [], []
    for path in paths:
        try:
            state = path.stat()
        except OSError:
            missing.append(path)
            continue
        # Reading from a pipe would wait for ever.
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f'{path}: expected a file, found a folder, pipe, socket or device')
        # A program can set the time of the content back, but not that of the inode.
        latest = max(state.st_mtime_ns, state.st_ctime_ns)
        found.append(f'{state.st_size} {latest} {state.st_ino} {state.st_mtime_ns}')
    if missing:
        more = f' (nor for {len(missing) - 1} more of {len(paths)})' if missing[1:] else ''
        raise UserError(f'{missing[0]}: expected a file, found nothing there{more}')
    return found


def _looked(paths: Sequence[Path], look: Callable[[Path], str]) -> Iterator[str]:
    """Yields what `look` finds, in the files' order, and says how far it is if it takes long."""
    last = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        for done, text in enumerate(pool.map(lambda path: _safe(path, look), paths), 1):
            if time.monotonic() - last > PATIENCE:
                last = time.monotonic()
                print(f'reading the data once: {done} of {len(paths)} files', file=sys.stderr)
            yield text


def _safe(path: Path, look: Callable[[Path], str]) -> str:
    try:
        return look(path)
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror or error}') from None


@contextmanager
def _database() -> Iterator[sqlite3.Connection | None]:
    """Opens the database; yields None where the user has no cache folder that can be written."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        opened = sqlite3.connect(cache_folder() / 'files.sqlite', timeout=30)
        opened.execute(
            'CREATE TABLE IF NOT EXISTS seen '
            '(kind TEXT, path TEXT, state TEXT, found TEXT, PRIMARY KEY (kind, path))'
        )
    # Without a memory every file is looked at again, which takes longer and finds the same.
    except (OSError, RuntimeError, sqlite3.Error):
        yield None
        return
    with closing(opened), opened:
        yield opened


def _recall(kind: str, places: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Returns place -> (state, found) of the files that are remembered; none if that fails."""
    known: dict[str, tuple[str, str]] = {}
    with suppress(sqlite3.Error), _database() as database:
        if database is None:
            return known
        for place in places:
            row = database.execute(
                'SELECT state, found FROM seen WHERE kind = ? AND path = ?', (kind, place)
            ).fetchone()
            if row:
                known[place] = row
    return known


def _store(rows: Sequence[tuple[str, str, str, str]]) -> None:
    with suppress(sqlite3.Error), _database() as database:
        if database is not None and rows:
            database.executemany('INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)', rows)
