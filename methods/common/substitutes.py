"""Inputs that are learned and stand in for those which a network may not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.method import Modality, Task

ELEMENTS = 4 * 155 * 240 * 240
"""Number of elements of the released code's substitutes, on which its norm depends."""
PACE = 5e-3 / 3e-4
"""Learning rate of the substitutes, divided by that of the network, as in the released code."""
AXES: dict[str, tuple[int, ...]] = {'image': (1, 2), 'volume': (1, 2, 3), 'sequence': (0,)}
"""Kind of modality -> the axes of a substitute along which a channel extends."""


def shape_of(modality: Modality, task: Task) -> tuple[int, ...]:
    """Returns the shape of a modality's substitute: that of a sample, or of a whole volume."""
    extents = task.extents if modality.kind == 'volume' else ()
    return (modality.shape[0], *extents) if extents else modality.shape


def part_of(volume: Tensor, places: Tensor, sides: Sequence[int]) -> Tensor:
    """Returns the parts of one volume at the places of patches, mirrored as these are.

    Outside the volume they have the value of its nearest voxel.

    Args:
        volume: (C, D, H, W).
        places: (B, 3, 2), as `Batch.places`.
        sides: The sides (d, h, w) of the patches.

    Returns:
        (B, C, d, h, w).
    """
    axes = []
    for (begin, step), side, length in zip(
        places.permute(1, 2, 0), sides, volume.shape[1:], strict=True
    ):
        # Indices instead of slices: the beginning of a slice would have to be known on the CPU.
        voxels = begin[:, None] + step[:, None] * torch.arange(side, device=places.device)
        axes.append(voxels.clamp(0, length - 1))
    z, y, x = axes
    found = volume[:, z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]]
    return found.transpose(0, 1)


def learned_inputs(task: Task) -> nn.ParameterDict:
    """Returns modality name -> the parameter of its substitute s, which starts as noise.

    A step of Adam is about as long as the learning rate, whatever the gradient. Parameters that are
    stored divided by `PACE` therefore move `PACE` times as fast.

    Args:
        task: Gives the modalities.
    """
    return nn.ParameterDict(
        {m.name: nn.Parameter(torch.randn(shape_of(m, task)) / PACE) for m in task.modalities}
    )


def substitutes(learned: nn.ParameterDict, task: Task) -> dict[str, Tensor]:
    """Returns modality name -> s (*shape), of volumes (C, *extents).

    Args:
        learned: What `learned_inputs` returns.
        task: Gives the modalities.
    """
    found = {}
    for m in task.modalities:
        s = PACE * learned[m.name]
        # The last feature of a padded sequence marks real frames: all frames of s are real.
        found[m.name] = F.pad(s[:, :-1], (0, 1), value=1.0) if m.padded else s
    return found


def at(whole: Mapping[str, Tensor], task: Task, places: Tensor | None) -> dict[str, Tensor]:
    """Returns what samples see of substitutes, modality name -> (*shape) or (B, *shape).

    Args:
        whole: What `substitutes` returns.
        task: Gives the modalities.
        places: Where patches lie in their volumes, as `Batch.places`; None for the beginning.
    """
    found = dict(whole)
    for m in task.modalities:
        if m.kind == 'volume':
            s, (d, h, w) = whole[m.name], m.shape[1:]
            beginning = s[:, :d, :h, :w]
            found[m.name] = beginning if places is None else part_of(s, places, (d, h, w))
    return found


def departure(whole: Mapping[str, Tensor], task: Task) -> Tensor:
    """Returns the norm of the differences between the substitutes and their channels' means.

    It is the norm that `ELEMENTS` such differences would have. Each element of a vector is a
    channel and equals its own mean.

    Args:
        whole: What `substitutes` returns.
        task: Gives the modalities.
    """
    apart = [
        (s - s.mean(AXES[m.kind], keepdim=True) if m.kind in AXES else 0 * s).flatten()
        for m, s in ((m, whole[m.name]) for m in task.modalities)
    ]
    gaps = torch.cat(apart)
    return torch.linalg.vector_norm(gaps) * (ELEMENTS / len(gaps)) ** 0.5
