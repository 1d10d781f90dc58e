"""Volumes larger than what a network sees at a time: windows that overlap, averaged.

The windows have the size of the training's patches and lie half a window apart, as in the released
code of RFNet (Ding et al., ICCV 2021); the last one along each axis ends where the volume ends. A
voxel gets the mean of the logits of all windows that see it, where that code averages
probabilities. A volume that is shorter than a window is padded with 0 at its end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from benchmark.engine.stacking import repeatable
from benchmark.method import Method

LIMIT = 2**31
"""Bytes of sums that are held at once; of more, subsets are predicted in groups."""

Box = tuple[slice, slice, slice]
"""The voxels of a window."""

Predict = Callable[
    [dict[str, Tensor], Sequence[np.ndarray], Tensor], Iterable[tuple[np.ndarray, Tensor]]
]
"""Yields (mask, logits) of a window, which has a place (B, 3, 2), for each of some subsets."""


def starts(length: int, side: int) -> list[int]:
    """Returns the first voxel of each window along an axis.

    Args:
        length: Voxels of the axis, `side` or more.
        side: Voxels of a window.
    """
    return [*range(0, length - side, max(1, side // 2)), length - side]


def boxes(extents: Sequence[int], sides: Sequence[int]) -> Iterator[Box]:
    """Yields the windows of a volume; arguments as in `starts`, for each axis."""
    axes = (starts(n, side) for n, side in zip(extents, sides, strict=True))
    for z, y, x in itertools.product(*axes):
        (d, h, w) = sides
        yield slice(z, z + d), slice(y, y + h), slice(x, x + w)


def averaged(
    inputs: Mapping[str, Tensor],
    masks: Sequence[np.ndarray],
    sides: Sequence[int],
    classes: int,
    predict: Predict,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yields (mask, logits) of whole volumes for each subset.

    Every window is encoded once for all subsets, or once for each group of them, where the logits
    of all would take too much memory.

    Args:
        inputs: Modality name -> (B, C, D, H, W).
        masks: The subsets.
        sides: Sides of a window.
        classes: Number of classes.
        predict: Predicts a window.
    """
    some = next(iter(inputs.values()))
    extents = some.shape[2:]
    padding = [n for i in (2, 1, 0) for n in (0, max(0, sides[i] - extents[i]))]
    padded = {name: F.pad(x, padding) for name, x in inputs.items()}
    whole = next(iter(padded.values())).shape[2:]
    size = max(1, LIMIT // (4 * len(some) * classes * whole.numel()))
    for first in range(0, len(masks), size):
        group = masks[first : first + size]
        sums = list(some.new_zeros(len(group), len(some), classes, *whole, dtype=torch.float32))
        counts = some.new_zeros(whole, dtype=torch.float32)
        for box in boxes(whole, sides):
            z, y, x = box
            part = {name: values[..., z, y, x] for name, values in padded.items()}
            place = torch.tensor([[axis.start, 1] for axis in box], device=some.device)
            found = predict(part, group, place.expand(len(some), -1, -1))
            for total, (_, logits) in zip(sums, found, strict=True):
                total[..., z, y, x] += logits
            counts[box] += 1
        d, h, w = extents
        for mask in group:
            yield mask, sums.pop(0).div_(counts)[..., :d, :h, :w]


def logits_of(network: Method, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
    """Returns the logits of a network in float32; those of volumes window by window.

    The same samples have the same answer, even from a network that draws random numbers.

    Args:
        network: The network, in eval mode.
        inputs: Modality name -> (B, *shape).
        mask: (B, M) bool.
    """
    with repeatable(mask.device, 0):
        return _logits(network, inputs, mask)


def _logits(network: Method, inputs: dict[str, Tensor], mask: Tensor) -> Tensor:
    task = network.task
    if not task.volumes:
        return network.predict(inputs, mask).float()
    every = np.ones(len(task.names), bool)

    def one(part: dict[str, Tensor], _: object, places: Tensor) -> list[tuple[np.ndarray, Tensor]]:
        return [(every, network.predict_at(part, mask, places))]

    sides = task.modalities[0].shape[1:]
    ((_, logits),) = averaged(inputs, [every], sides, len(task.classes), one)
    return logits
