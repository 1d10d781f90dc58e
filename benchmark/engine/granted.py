"""How many cores and how much memory this process may use: a container may grant it a part."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

CGROUP = Path('/sys/fs/cgroup')
"""Where Linux says what a container may use (control groups, version 2)."""


def cores() -> int:
    """Returns how many cores this process may use; a container or a queue may grant it a few."""
    if hasattr(os, 'sched_getaffinity'):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # 'max' is no number: all of them
        quota, period = map(int, (CGROUP / 'cpu.max').read_text().split())
        count = min(count, max(1, math.ceil(quota / period)))
    return count


def memory() -> float:
    """Returns how many bytes of memory this process may use, infinity where that is not known."""
    found = math.inf
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        found = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    with contextlib.suppress(OSError, ValueError):
        found = min(found, int((CGROUP / 'memory.max').read_text()))
    return found
