"""Which frames of the pickles of MMSA are no padding, and what their scores are."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmark.errors import UserError
from datasets.common.io.rows import real_frames

HIGHEST = 3
"""Scores of sentiment go from -3 to 3."""


def of_words(given: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """Returns (N, T) bool, which word pieces are no padding.

    Args:
        given: What the file holds as `text_bert`, (N, 3, T), of which [:, 1] marks them.
        shape: (N, T).
        where: The split of the file, for messages.

    Raises:
        UserError: It holds something else, or a clip has no word.
    """
    tokens = np.asarray(given)
    if tokens.shape != (shape[0], 3, shape[1]) or not np.isin(tokens[:, 1], (0, 1)).all():
        expected = f'{(shape[0], 3, shape[1])} with 0 or 1 in [:, 1]'
        found = f'{tokens.dtype} {tokens.shape}'
        raise UserError(f'{where}/text_bert: expected {expected}, found {found}')
    real = np.asarray(tokens[:, 1] == 1)
    empty = np.flatnonzero(~real.any(1))
    if len(empty):
        expected = 'a word in every clip'
        raise UserError(f'{where}/text_bert: expected {expected}, found none in row {empty[0]}')
    return real


def of_lengths(given: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """Returns (N, T) bool, which frames are no padding.

    Args:
        given: How many frames of each clip are real, (N,).
        shape: (N, T).
        where: What holds the numbers, for messages.

    Raises:
        UserError: They are no numbers from 0 to T.
    """
    lengths = np.atleast_1d(np.asarray(given))
    fits = lengths.shape == shape[:1] and lengths.dtype.kind in 'iu'
    if not fits or (lengths < 0).any() or (lengths > shape[1]).any():
        expected = f'{shape[:1]} whole numbers from 0 to {shape[1]}'
        found = f'{lengths.dtype} {lengths.shape}'
        raise UserError(f'{where}: expected {expected}, found {found}')
    return real_frames(lengths, shape[1])


def scores(given: Any, where: str) -> np.ndarray:
    """Returns the scores (N,) of clips, float64.

    Args:
        given: What the file holds, (N,) or (N, 1).
        where: What holds the scores, for messages.

    Raises:
        UserError: They are no numbers from -3 to 3.
    """
    found = np.atleast_1d(given)
    fits = found.size == len(found) and found.dtype.kind in 'fiu'
    if not fits or not (np.abs(found) <= HIGHEST).all():  # a comparison with NaN is false
        told = f'{found.dtype} {found.shape}'
        raise UserError(f'{where}: expected (N,) scores from -3 to 3, found {told}')
    return np.asarray(found.ravel(), np.float64)
