"""What the inputs of a user's own arrays hold, read once when the data are opened."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.common.families.array_inputs import Input, fail
from datasets.common.io.remembered import remembered
from datasets.common.io.row_contents import EXACT, Contents, contents, key_of
from datasets.common.io.rows import moments, parts, spread, varying
from datasets.common.io.stored import array_file

VERSION = 1
"""Raised when `_measured` finds something else in the same array."""


class Measured(NamedTuple):
    """The training samples of an input, by feature or by channel.

    Attributes:
        mean: Means, float64, which broadcast to the rows.
        std: Standard deviations, likewise; infinite where there is none (`rows.spread`).
        varying: Features whose standard deviation is infinite, but of which other splits hold
            other values.
    """

    mean: np.ndarray
    std: np.ndarray
    varying: list[int]

    @property
    def constant(self) -> list[int]:
        """The features whose standard deviation is infinite."""
        return np.flatnonzero(np.isinf(self.std)).tolist()


def read_contents(
    root: Path, name: str, one: Input, available: np.ndarray, streams: bool, marked: bool = True
) -> Contents:
    """Reads an input, whose numbers must be finite, or what is remembered of its file.

    Args:
        root: The file or folder.
        name: The modality.
        one: Its input.
        available: (N,) bool, the samples that have it.
        streams: Whether the root is a folder, in which the input has a file of its own.
        marked: Whether a key of the user's says which samples have it.

    Raises:
        UserError: A number cannot be read.
    """

    def look(_: Path | None = None) -> str:
        return json.dumps(contents(one.values, available, one.real))

    file = array_file(root, f'inputs/{name}')
    kind = key_of('rows', one.values, available, one.real)
    (text,) = remembered(kind, [file], look) if streams else (look(),)
    found = Contents(*json.loads(text))
    if found.bad is not None:
        whole = one.values.dtype.kind in 'iu'
        numbers = f'whole numbers up to {EXACT}' if whole else 'finite numbers of float32'
        expected = f'{numbers} where available is true' if marked else numbers
        others = f'others in row {found.bad}'
        if not marked:
            others += (
                '; where a sample lacks a modality, the key available, bool (N, M), has to be false'
            )
        raise fail(root, f'inputs/{name}', expected, others)
    return found


def measure(
    root: Path,
    name: str,
    one: Input,
    available: np.ndarray,
    where: Mapping[str, np.ndarray],
    streams: bool,
) -> Measured:
    """Measures the training samples of an input, or returns what is remembered of its file.

    Args:
        root: The file or folder.
        name: The modality.
        one: Its input.
        available: (N,) bool, the samples that have it.
        where: 'train', 'val', 'test' -> rows.
        streams: Whether the root is a folder, in which the input has a file of its own.

    Raises:
        UserError: No training sample has the input.
    """
    train = where['train'][available[where['train']]]
    if not len(train):
        raise fail(root, f'inputs/{name}', 'some training sample that has it', 'none')
    others = np.concatenate([rows[available[rows]] for k, rows in where.items() if k != 'train'])
    real = np.ones(one.values.shape[:2], bool) if one.kind == 'sequence' else None
    # Zeros of padding would pull the mean towards 0 and make the deviation small.
    real = real if one.real is None else one.real

    def look(_: Path | None = None) -> str:
        found = _measured(one.values, train, others, real)
        return json.dumps([found.mean.tolist(), found.std.tolist(), found.varying])

    kind = key_of(f'moments {VERSION}', one.values, available, real, train)
    file = array_file(root, f'inputs/{name}')
    (text,) = remembered(kind, [file], look) if streams else (look(),)
    mean, std, varying = json.loads(text)
    return Measured(np.array(mean), np.array(std), varying)


def _measured(
    x: np.ndarray, train: np.ndarray, others: np.ndarray, real: np.ndarray | None
) -> Measured:
    mean, std = moments(x, train, real)
    std = spread(mean, std, x.dtype)

    def rest() -> Iterator[np.ndarray]:
        for rows in parts(others, x.shape):
            yield x[rows] if real is None else x[rows][real[rows]]

    return Measured(mean, std, varying(mean, std, rest()))
