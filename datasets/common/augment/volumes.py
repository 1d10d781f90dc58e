"""Augmentation of slices and patches of volumes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.method import Batch
from datasets.common.augment.chosen import OfModalities
from datasets.common.augment.resampling import Names, Size, images
from datasets.common.augment.transforms import Compose, Geometric, Intensity

AXES = (-3, -2, -1)


@dataclass(frozen=True)
class Mirror(OfModalities):
    """Mirrors the patches of a sample along each of the three axes at random, and its labels alike.

    It is what RFNet does beside a crop, a rotation by at most 10 degrees, which is left out here,
    and a change of intensities (`Intensity`).

    Args:
        modalities: The volumes (B, C, D, H, W); None for all modalities.
        chance: Probability of mirroring along an axis.

    Raises:
        UserError: Applying the transform raises it if a modality is unknown or no volume.
    """

    modalities: Names | None = None
    chance: float = 0.5

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Batch:
        """Returns the batch with some samples mirrored."""
        names = images(batch, self.modalities, (4,))
        turned = torch.rand(len(AXES), len(batch.ids), dtype=torch.float64) < self.chance
        found = {**{name: batch.inputs[name] for name in names}, '': batch.target}
        places = None if batch.places is None else mirrored(batch.places, turned, batch.target)
        for axis, chosen in zip(AXES, turned, strict=True):
            for name, x in found.items():
                there = chosen.to(x.device, non_blocking=True).view(-1, *[1] * (x.ndim - 1))
                found[name] = torch.where(there, x.flip(axis), x)
        target = found.pop('')
        return batch._replace(inputs={**batch.inputs, **found}, target=target, places=places)


def mirrored(places: Tensor, turned: Tensor, target: Tensor) -> Tensor:
    """Returns the places of patches of which some are mirrored, in the form of `Batch.places`.

    Args:
        places: (B, 3, 2).
        turned: (3, B) bool, whether a patch is mirrored along an axis.
        target: (B, D, H, W), the labels of the patches.
    """
    found = []
    for (begin, step), side, chosen in zip(
        places.permute(1, 2, 0), target.shape[1:], turned, strict=True
    ):
        there = chosen.to(places.device, non_blocking=True)
        last = begin + (side - 1) * step
        found.append(torch.stack([begin.where(~there, last), step.where(~there, -step)], -1))
    return torch.stack(found, 1)


def for_slices(names: Names, size: Size) -> Compose:
    """Returns what training does to slices, by the names of the modalities and their size."""
    turned = Geometric(size, rotate=10, flip=0.5, vertical_flip=0.5, nearest=names)
    return Compose(turned, Intensity(names))


def for_patches(names: Names) -> Compose:
    """Returns what training does to patches, by the names of the modalities."""
    return Compose(Mirror(names), Intensity(names))
