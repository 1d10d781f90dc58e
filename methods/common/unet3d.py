"""The network of volumes: a 3-D encoder for each modality, and a U-shaped decoder.

Both have the form of RFNet's network (Ding et al., ICCV 2021), whose first stage has 16 channels:
four scales from the full resolution to an eighth of it, three convolutions each, instance
normalisation without affine parameters, and leaky ReLU. Convolutions pad with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.encoders import Maps, fused_channels
from methods.common.regions import RegionDecoder, conv

NORM = nn.InstanceNorm3d
"""Normalisation of each sample by itself: steps of volumes have few samples."""


class VolumeEncoder(nn.Module):
    """Encoder of a volume: (B, C, D, H, W) -> four maps of `fused_channels`, with strides 1 to 8.

        a_s = conv_stride(x_{s-1}),  x_s = a_s + conv(conv(a_s))

    Args:
        modality: Gives the number of channels.
        task: Gives the width.
    """

    def __init__(self, modality: Modality, task: Task) -> None:
        super().__init__()
        widths = fused_channels(task)
        before = (modality.shape[0], *widths[:-1])
        self.enter = nn.ModuleList(
            conv(i, o, 3, NORM, stride=1 if s == 0 else 2)
            for s, (i, o) in enumerate(zip(before, widths, strict=True))
        )
        self.refine = nn.ModuleList(
            nn.Sequential(conv(c, c, 3, NORM), conv(c, c, 3, NORM)) for c in widths
        )

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, C, D, H, W) into four maps, the finest first."""
        maps = []
        for enter, refine in zip(self.enter, self.refine, strict=True):
            entered = enter(x)
            x = entered + refine(entered)
            maps.append(x)
        return tuple(maps)


class VolumeFusion(nn.Module):
    """Fusion by concatenation: a convolution of one voxel reduces M maps to one at every scale.

    Args:
        task: Gives modalities and channels.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        count = len(task.modalities)
        self.reduce = nn.ModuleList(conv(count * c, c, 1, NORM) for c in fused_channels(task))

    def forward(self, scales: Sequence[Sequence[Tensor]]) -> Maps:
        """Returns a map (B, C, D, H, W) per scale from the M masked maps of each scale."""
        joined = (torch.cat(list(maps), 1) for maps in scales)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))


class VolumeDecoder(nn.Module):
    """Segmentation decoder of volumes: RFNet's path from the coarsest scale to the finest.

    Args:
        task: Gives width, classes and the size of the patches.

    Attributes:
        channels: Channels of the deepest of `maps`.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        widths, size = fused_channels(task), task.modalities[0].shape[1:]
        self.channels, self.size = widths[-1], size
        self.path = RegionDecoder(widths, [NORM] * len(widths), len(task.classes), size)

    def maps(self, fused: Maps) -> Maps:
        """Returns the maps that distillation compares: the fused maps of all scales, unchanged."""
        return fused

    def levels(self, maps: Maps) -> list[Tensor]:
        """Returns the decoded map of each scale, finest first, with the channels of `maps`."""
        return self.path.levels(maps)

    def head(self, levels: Sequence[Tensor]) -> Tensor:
        """Returns the logits (B, K, D, H, W) of what `levels` returns."""
        return self.path.logits(levels[0])

    def logits(self, maps: Maps) -> Tensor:
        """Returns logits (B, K, D, H, W), at the resolution of the patches, from `maps`."""
        return self.path(maps)

    def outputs(self, maps: Maps) -> tuple[Tensor, ...]:
        """Returns all logits that the task's loss supervises: one tensor (B, K, D, H, W)."""
        return (self.logits(maps),)

    def feature(self, maps: Maps) -> Tensor:
        """Returns the second deepest decoded map, (B, 4 width, D / 4, H / 4, W / 4)."""
        return self.levels(maps)[-2]

    def forward(self, fused: Maps) -> Tensor:
        """Returns logits (B, K, D, H, W) from the fused maps."""
        return self.logits(self.maps(fused))
