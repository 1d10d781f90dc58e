"""Quotients and means that leave out what is undefined."""

from __future__ import annotations

import numpy as np


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns part / whole, NaN where whole is 0."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(whole > 0, part / whole, np.nan)


def nanmean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the last axis of what is not NaN, NaN where nothing is left."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0).sum(-1), there.sum(-1))
