"""Reads every row of a data set, in threads, and collects the problems instead of stopping."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple, TypeVar

import numpy as np

from benchmark.dataset import VOID, Rows
from benchmark.errors import UserError
from benchmark.method import IGNORE
from datasets.common.prepare.steps import Steps

Item = TypeVar('Item')
Result = TypeVar('Result')
Problem = tuple[str, str]
"""The kind of a problem, and its description in one line."""

CHUNK = 8
"""How many rows a thread reads at once; 8 float32 images of 3 x 512 x 1024 take 50 MB."""


class Chunk(NamedTuple):
    """Some rows of a modality or of the target, which are to be read.

    Attributes:
        split: Name of the split.
        part: Name of the modality, or 'target'.
        source: The modality or target that the rows belong to.
        rows: (n,) positions in the source.
        ids: (n,) names of the samples.
        classes: Number of classes K for a target; 0 for a modality.
    """

    split: str
    part: str
    source: Rows
    rows: np.ndarray
    ids: np.ndarray
    classes: int

    def cut(self) -> list[Chunk]:
        """Returns the same rows in chunks of at most `CHUNK` rows."""
        pieces = [slice(start, start + CHUNK) for start in range(0, len(self.rows), CHUNK)]
        return [self._replace(rows=self.rows[piece], ids=self.ids[piece]) for piece in pieces]


class Content(NamedTuple):
    """What was found in a chunk.

    Attributes:
        problems: The problems of its rows.
        present: (K,) bool, the classes that occur in a target; (0,) for a modality.
    """

    problems: list[Problem]
    present: np.ndarray


def threads(
    work: Callable[[Item], Result], items: Sequence[Item], what: str, sizes: Sequence[int] = ()
) -> Iterator[Result]:
    """Calls a function for each item, in threads, and shows the progress.

    Args:
        work: The function. Threads make it faster if it mostly reads or decodes files.
        items: The items.
        what: What the progress bar counts, in the plural.
        sizes: How much each item adds to that count; 1 by default.

    Yields:
        The results in the order of the items. An exception of `work` is raised here.
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
    """Reads a chunk and checks its values: their shape, finite numbers, and labels in range."""
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
    """Returns the values of each row, or the exception that reading it raises.

    Rows are read one by one only if they cannot be read together.
    """
    with suppress(Exception):
        together = np.asarray(source[rows])
        if len(together) == len(rows):
            return [np.asarray(values) for values in together]
    return [_one(source, row) for row in rows]


def _one(source: Rows, row: int) -> np.ndarray | Exception:
    # An exception of any type is a problem of this row, and the other rows are still read.
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
    """Checks a label or a label map (H, W); sets `present` for the classes that occur."""
    if values.dtype.kind not in 'iub':
        return 'labels', f'{where}: expected integers, found {values.dtype}'
    found = np.unique(values)
    known = found[(found >= 0) & (found < len(present))].astype(int)
    present[known] = True
    ignored = [VOID if len(present) <= VOID else IGNORE, IGNORE] if values.ndim else []
    wrong = np.setdiff1d(found, [*known, *ignored])
    if not wrong.size:
        return None
    expected = f'0 to {len(present) - 1}' + (f' or {ignored[0]}' if ignored else '')
    return 'labels', f'{where}: expected {expected}, found {", ".join(map(str, wrong[:5]))}'
