"""Reading every row of a data set, in threads, without stopping at what cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

import numpy as np

from benchmark.dataset import Rows
from benchmark.errors import UserError
from benchmark.method import IGNORE
from datasets.common.prepare.steps import Steps

Item = TypeVar('Item')
Result = TypeVar('Result')
Problem = tuple[str, str]
"""Its kind, and one line."""

CHUNK = 8
"""Rows read at once: 50 MB of 512 x 1024 colour images in each thread."""


class Chunk(NamedTuple):
    """Rows of one modality or of the target.

    Attributes:
        split: Name of the split.
        part: Name of the modality, or 'target'.
        source: What they are read from.
        rows: (n,) positions.
        ids: (n,) names of the samples.
        classes: K for a target; 0 for inputs.
    """

    split: str
    part: str
    source: Rows
    rows: np.ndarray
    ids: np.ndarray
    classes: int

    def cut(self) -> list[Chunk]:
        """Returns it in pieces of at most `CHUNK` rows."""
        pieces = [slice(start, start + CHUNK) for start in range(0, len(self.rows), CHUNK)]
        return [self._replace(rows=self.rows[piece], ids=self.ids[piece]) for piece in pieces]


class Content(NamedTuple):
    """What a chunk holds: whatever is wrong with it, and (K,) bool, the classes that occur."""

    problems: list[Problem]
    present: np.ndarray


def threads(
    work: Callable[[Item], Result], items: Sequence[Item], what: str, sizes: Sequence[int] = ()
) -> Iterator[Result]:
    """Does a piece of work for each item, in threads; yields the results in order.

    Args:
        work: Mostly reads or decodes files: Python lets one thread compute at a time.
        items: What to do it for.
        what: What is counted on the progress bar, in the plural.
        sizes: How much of that each item is; 1 by default.
    """
    sizes = sizes or [1] * len(items)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        with Steps(sum(sizes), what) as step:
            for size, result in zip(sizes, pool.map(work, items), strict=True):
                step(size)
                yield result
    finally:
        pool.shutdown(cancel_futures=True)


def read(chunk: Chunk) -> Content:
    """Reads a chunk and looks at its values: shape, finite numbers, labels in range."""
    content = Content([], np.zeros(chunk.classes, bool))
    for name, values in zip(chunk.ids, _each(chunk.source, chunk.rows), strict=True):
        where = f'{chunk.split}: {chunk.part} of {name}'
        problem = _problem(where, values, chunk, content.present)
        if problem:
            content.problems.append(problem)
    return content


def _problem(
    where: str, values: np.ndarray | Exception, chunk: Chunk, present: np.ndarray
) -> Problem | None:
    shape = tuple(chunk.source.shape[1:])
    if isinstance(values, UserError):
        return 'unreadable rows', str(values)
    if isinstance(values, Exception):
        return 'unreadable rows', f'{where}: {type(values).__name__}: {values}'
    if values.shape != shape:
        return 'shapes', f'{where}: expected {shape}, found {values.shape}'
    return _label(where, values, present) if chunk.classes else _value(where, values)


def _each(source: Rows, rows: np.ndarray) -> list[np.ndarray | Exception]:
    """Returns each row's values; or, one by one where they cannot be read together, the error."""
    with suppress(Exception):
        together = np.asarray(source[rows])
        if len(together) == len(rows):
            return [np.asarray(values) for values in together]
    return [_one(source, row) for row in rows]


def _one(source: Rows, row: int) -> np.ndarray | Exception:
    # Whatever a decoder raises is a finding about this row.
    try:
        return np.asarray(np.asarray(source[np.array([row])])[0])
    except Exception as error:
        return error


def _value(where: str, values: np.ndarray) -> Problem | None:
    if values.dtype.kind not in 'fiub':
        return 'values', f'{where}: expected numbers, found {values.dtype}'
    wrong = int((~np.isfinite(values)).sum())
    return ('values', f'{where}: {wrong} of {values.size} are not finite') if wrong else None


def _label(where: str, values: np.ndarray, present: np.ndarray) -> Problem | None:
    """Checks labels (H, W) or one; marks the classes that occur in `present`."""
    if values.dtype.kind not in 'iub':
        return 'labels', f'{where}: expected integers, found {values.dtype}'
    found = np.unique(values)
    known = found[(found >= 0) & (found < len(present))].astype(int)
    present[known] = True
    ignored = [IGNORE] if values.ndim else []
    wrong = np.setdiff1d(found, [*known, *ignored])
    if not wrong.size:
        return None
    expected = f'0 to {len(present) - 1}' + (f' or {IGNORE}' if ignored else '')
    return 'labels', f'{where}: expected {expected}, found {", ".join(map(str, wrong[:5]))}'
