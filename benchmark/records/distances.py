"""HD95, which is a distance in millimetres beside metrics that are fractions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

HD95 = 'HD95'
"""95th percentile of the distances between two surfaces; `HD95_<region>` is that of one region."""


def is_distance(metric: str) -> bool:
    """Returns whether a metric is in millimetres rather than a fraction."""
    return metric == HD95 or metric.startswith(f'{HD95}_')


def valid(value: Any) -> bool:
    """Returns whether a value of a file is a distance: a finite number from 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def of_volumes(found: np.ndarray, regions: Sequence[str]) -> dict[str, float]:
    """Returns HD95, the mean over regions, and that of each region.

    Args:
        found: (V, R) HD95 of V volumes in millimetres.
        regions: The R names; if empty, the mean alone is returned.
    """
    each = found.astype(np.float64).mean(0)
    named = zip(regions, each.tolist(), strict=True) if regions else ()
    return {HD95: float(each.mean()), **{f'{HD95}_{name}': value for name, value in named}}


def told(
    outcomes: Mapping[str, np.ndarray], subset: str, there: np.ndarray, regions: Sequence[str]
) -> dict[str, float]:
    """Returns `of_volumes` of a subset, nothing where the outcomes hold no distances.

    Args:
        outcomes: What a run predicted.
        subset: A subset that it was tested on.
        there: (V,) bool, the volumes that were tested on it.
        regions: The names of the regions.
    """
    found = outcomes.get(f'hd95/{subset}')
    return {} if found is None else of_volumes(found[there], regions)


def wrong(found: np.ndarray, there: np.ndarray, regions: int) -> bool:
    """Returns whether an array of outcomes does not hold distances of the volumes tested alone."""
    if found.dtype.kind != 'f' or found.shape != (len(there), regions):
        return True
    known = found[there]
    return not (np.isfinite(known).all() and (known >= 0).all() and np.isnan(found[~there]).all())
