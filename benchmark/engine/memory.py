"""Memory that was freed stays with the process, because getting it back takes long."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Numbers of the settings of `mallopt` in the C library of GNU."""
BLOCK = 32 * 2**20
"""Largest block, in bytes, that the C library may take from the memory that it keeps."""


def keep_freed() -> bool:
    """Lets the C library keep what is freed, up to 2 GiB, for what is allocated next.

    A training step allocates and frees the same blocks of some megabytes again and again. By
    default the C library of GNU gives such blocks back to the system, which has to fill them with
    zeros whenever they are asked for anew. `benchmark/speed.py` measures what that takes. No score
    depends on it.

    Returns:
        Whether this C library has the settings.
    """
    if not sys.platform.startswith('linux'):
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # Setting one of them ends the adjustment of the others, so that all are set.
    settings = {MMAP_THRESHOLD: BLOCK, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2 * BLOCK}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
