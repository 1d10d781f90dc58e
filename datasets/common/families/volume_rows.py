"""Slices of volumes as rows, which are cut or padded about their centre."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from datasets.common.families.volume_index import SEGMENTATION
from datasets.common.io.nifti import mapped

Size = tuple[int, int]

VERSION = 1
"""Raised when `look` finds something else in the same file."""


class Slices:
    """Rows that are slices of volumes, cut or padded about their centre and read from mapped files.

    The window does not depend on the content of any modality, so no information on a missing
    modality leaks through it.

    Args:
        files: One .npy file (S, H, W) per row.
        numbers: The slice of each row.
        size: (H, W) of the network's window.
        channel: Whether rows are inputs (1, H, W) float32 rather than labels (H, W) uint8.
        margin: Pixels (above and below, left and right) of the slice that rows show around the
            window; for labels of which none may be cut.
        opened: Returns the volume (S, H, W) of a file.
    """

    def __init__(
        self,
        files: Sequence[Path],
        numbers: Sequence[int],
        size: Size,
        channel: bool,
        margin: Size = (0, 0),
        opened: Callable[[Path], np.ndarray] = mapped,
    ) -> None:
        self.files, self.numbers, self.channel = files, numbers, channel
        self.opened = opened
        self.size, self.margin = size, margin
        self.rows = (size[0] + 2 * margin[0], size[1] + 2 * margin[1])
        self.shape = (len(files), *((1,) if channel else ()), *self.rows)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows at an array of positions."""
        rows = np.atleast_1d(np.asarray(index))
        out = np.zeros((len(rows), *self.rows), np.float32 if self.channel else np.uint8)
        for k, row in enumerate(rows):
            found = self.opened(self.files[row])[self.numbers[row]]
            places = map(window, found.shape, self.size, self.margin)
            inside, outside = zip(*places, strict=True)
            out[(k, *outside)] = found[inside]
        return out[:, None] if self.channel else out


def window(source: int, size: int, margin: int = 0) -> tuple[slice, slice]:
    """Returns which of `source` pixels a row shows, and their place in the row.

    The row shows the central window of `size` pixels with `margin` more on both sides. The window
    is the same with any margin.
    """
    # Where the row begins, in pixels of the source; negative where the row is padded.
    start = (source - size) // 2 if source > size else -((size - source) // 2)
    start -= margin
    first, end = max(start, 0), min(start + size + 2 * margin, source)
    return slice(first, end), slice(first - start, end - start)


def margin_of(sources: Sequence[int], size: int) -> int:
    """Returns the margin with which rows show all pixels of every source."""
    return max(0, -(-(max(sources) - size) // 2))


def look(file: Path) -> str:
    """Returns, as JSON, the labels in a segmentation; of another volume, null if not finite."""
    values = mapped(file)
    if file.stem == SEGMENTATION:
        return json.dumps(np.unique(values).tolist())
    return json.dumps([] if np.isfinite(values).all() else None)
