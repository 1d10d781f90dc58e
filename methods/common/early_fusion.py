"""Encoders of all modalities together: one for stacked images, or one each and a fusion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.encoders import ImageEncoder, Maps, PyramidEncoder
from methods.common.networks import Encoders, fusion
from methods.common.unet3d import VolumeEncoder


class StackedEncoder(nn.Module):
    """One encoder of all images or volumes, stacked along their channels: early fusion.

    Args:
        task: Gives the modalities, images or volumes of one size, and the encoder.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = task.names
        channels = sum(m.shape[0] for m in task.modalities)
        stack = Modality('stack', (channels, *task.modalities[0].shape[1:]))
        kind: type[nn.Module] = PyramidEncoder if task.kind == 'segmentation' else ImageEncoder
        self.encoder = (VolumeEncoder if task.volumes else kind)(stack, task)

    def forward(self, inputs: Mapping[str, Tensor]) -> Maps:
        """Encodes {modality: (B, C, H, W)} into the maps of all together."""
        return self.encoder(torch.cat([inputs[name] for name in self.names], 1))


class LateFusion(nn.Module):
    """One encoder per modality and the suite's fusion, for inputs that cannot be stacked.

    Args:
        task: Gives the modalities and the encoders.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.encoders, self.fusion = Encoders(task), fusion(task)

    def forward(self, inputs: Mapping[str, Tensor]) -> Maps:
        """Encodes {modality: (B, *shape)} into the maps of all together."""
        features = self.encoders(dict(inputs))
        some = next(iter(inputs.values()))
        nothing_lacks = torch.ones(len(some), len(inputs), dtype=torch.bool, device=some.device)
        return self.fusion(features, nothing_lacks)


def stackable(task: Task) -> bool:
    """Returns whether all modalities are images, or all are volumes, of one size."""
    (kind, size), *others = {(m.kind, m.shape[1:]) for m in task.modalities}
    return kind in ('image', 'volume') and not others
