"""How many cores and how much memory this process may use: a container or Slurm grants a part."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP = Path('/sys/fs/cgroup')
"""Where Linux says what a group of processes may use (control groups, version 2)."""

MINE = Path('/proc/self/cgroup')
"""Says which of these groups this process belongs to."""


def cores() -> int:
    """Returns how many cores this process may use; a container or a queue may grant it a few."""
    if hasattr(os, 'sched_getaffinity'):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    for text in _limits('cpu.max'):
        with contextlib.suppress(ValueError):  # 'max' is no number: all of them
            quota, period = map(int, text.split())
            count = min(count, max(1, math.ceil(quota / period)))
    return min(count, _of_slurm('SLURM_CPUS_PER_TASK') or count)


def memory() -> float:
    """Returns how many bytes of memory this process may use, infinity where that is not known."""
    found = math.inf
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        found = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for text in _limits('memory.max'):
        with contextlib.suppress(ValueError):
            found = min(found, int(text))
    # Not every cluster enforces what it grants; others on the node rely on it all the same.
    for granted in (_of_slurm('SLURM_MEM_PER_NODE'), _of_slurm('SLURM_MEM_PER_CPU') * cores()):
        found = min(found, granted * 2**20 or math.inf)
    return found


def _limits(name: str) -> Iterator[str]:
    """Returns what a file says in the group of this process and in the groups around that one.

    Slurm and systemd limit groups within others, and the limits of all of them hold.
    """
    group = PurePosixPath()
    with contextlib.suppress(OSError):
        for line in MINE.read_text().splitlines():
            if line.startswith('0::/') and '..' not in line:  # else it is beyond a container
                group = PurePosixPath(line.removeprefix('0::/'))
    for inner in (group, *group.parents):
        with contextlib.suppress(OSError):
            yield (CGROUP / inner / name).read_text()


def _of_slurm(name: str) -> int:
    """Returns the number in a variable that Slurm sets in its jobs; 0 without it, or for all."""
    text = os.environ.get(name, '')
    return int(text) if text.isascii() and text.isdigit() else 0
