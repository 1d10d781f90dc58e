"""Transforms of some of the modalities that they were written for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from benchmark.method import Batch


class OfModalities:
    """Mixed into transforms whose fields `modalities`, `nearest` or `modality` name modalities."""

    def among(self, names: Sequence[str]) -> Callable[[Batch], Batch]:
        """Returns the transform of those of its modalities that are among some names.

        A data set of which only some modalities are used has no others in its batches.
        """
        given: Any = self
        if getattr(given, 'modality', names[0]) not in names:
            return unchanged
        kept = {
            field: tuple(m for m in named if m in names)
            for field in ('modalities', 'nearest')
            if (named := getattr(given, field, None)) is not None
        }
        if not kept.get('modalities', names):
            return unchanged
        changed: Callable[[Batch], Batch] = dataclasses.replace(given, **kept)
        return changed


def unchanged(batch: Batch) -> Batch:
    """Returns the batch as it is."""
    return batch
