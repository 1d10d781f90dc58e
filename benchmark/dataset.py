"""The contract of a dataset: a task, three disjoint splits, and a recipe."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from benchmark.method import Batch, Task


class Rows(Protocol):
    """Samples of one modality that can be read by position: an array, or a decoder of files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a sample)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Split:
    """One split, in memory or read on demand.

    Attributes:
        inputs: Modality name -> (N, *shape), normalised float; only rows that are available and
            not hidden are ever read. Training rows may be larger than the task's shape where
            `augment` crops them.
        target: (N,) or (N, H, W) integer labels; 255 is ignored in dense ones. Test labels may be
            of another size than the inputs: logits are resized to them, bilinearly.
        available: (N, M) bool, what exists in the data.
        ids: (N,) names of the samples, unique over all splits.
        groups: (N,) names of the volumes that slices belong to, for Dice per volume; by default
            every sample is its own.
        augment: What training does to a batch, on the device; random numbers come from torch's
            default CPU generator, so that a resumed run draws the same.
    """

    inputs: dict[str, Rows]
    target: Rows
    available: np.ndarray
    ids: np.ndarray
    groups: np.ndarray | None = None
    augment: Callable[[Batch], Batch] | None = None

    def __len__(self) -> int:
        return len(self.available)


class Dataset:
    """Base class of every dataset; the constructor's keywords are its options.

    Attributes:
        name: Name in tables and folders; the registered name unless the data decide (`arrays`).
        task: What is asked of a method.
        spec: Registered name; set when it is opened.
        options: The constructor's options that can change a score; set when it is opened.
        fingerprint: Short hash of all that can change a score: generator version and options, or
            the files' content.
        recipe: Fields of `benchmark.engine.protocol.Protocol` that differ from its defaults here.
        licence: Terms of use.
        how_to_get: Where the data come from and how to lay them out.
        embedded: The data are generated; no root is needed.
        streams: Samples are decoded from files as they are read; loader processes help.
        counts: Split -> number of samples that the published split has, to check a root against.
    """

    name: str
    task: Task
    spec: str = ''
    options: dict[str, Any]
    fingerprint: str
    recipe: dict[str, Any] = {}
    licence: ClassVar[str] = ''
    how_to_get: ClassVar[str] = ''
    embedded: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    counts: ClassVar[dict[str, int]] = {}

    @functools.cached_property
    def bounds(self) -> tuple[dict[str, float], float | None]:
        """The ceiling and chance, computed once."""
        return self.ceiling(), self.chance()

    def split(self, name: str) -> Split:
        """Returns the split 'train', 'val' or 'test'; nothing of another split is read."""
        raise NotImplementedError

    def ceiling(self) -> dict[str, float]:
        """Returns subset id -> the best possible metric, where it can be computed."""
        return {}

    def chance(self) -> float | None:
        """Returns the metric of guessing, where it is known."""
        return None
