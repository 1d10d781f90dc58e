"""Names of the folders of rows, of searches, and of the networks of an experiment."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from benchmark.dataset import Dataset

LONGEST = 120
"""Most bytes in the name of the folder of a row or a network; file systems take 255."""


def place(results: Path, kind: str, data: Dataset, row: str, protocol_id: str) -> Path:
    """Returns the folder of a row's 'runs' or of its search's trials ('tuning')."""
    return results / kind / data.name / folder_name(row) / protocol_id


def folder_name(row: str) -> str:
    """Returns the name of a row's folder: readable, and another one for every row.

    A row whose name is too long for a folder, or holds characters that file systems refuse, gets
    the hash of its name appended; otherwise 'a/b' and 'a_b' would share a folder.
    """
    plain = re.sub(r'[^\w.,=+-]', '_', row.replace(':', '-', 1), flags=re.ASCII)
    if plain == row.replace(':', '-', 1) and len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(row.encode()).hexdigest()[:8]
    return f'{plain[: LONGEST - 9]}-{digest}'


def part_name(subset: str) -> str:
    """Returns the name of the folder of the network for a subset; the names of many are long."""
    return subset if len(subset.encode()) <= LONGEST else folder_name(subset)
