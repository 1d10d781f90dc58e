"""Fusion by the mean and the variance of the modalities that are present."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Task
from methods.common.encoders import Maps, fused_channels
from methods.common.losses import total
from methods.common.networks import masked


def moments(
    maps: Sequence[Tensor], mask: Tensor, estimator: str = 'population', official: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns mean and variance over the modalities that are present, as HeMIS (MICCAI 2016) does.

        E = 1/|K| sum_{i in K} C_i,  V = 1/n sum_{i in K} (C_i - E)^2,  n = |K| or |K| - 1

    If one modality is present, V and its gradient are exactly zero.

    Args:
        maps: The M modalities' maps C_i (B, C, H, W), zero where absent.
        mask: The present modalities K, (B, M) bool.
        estimator: 'population' divides V by n = |K|, 'sample' by n = |K| - 1.
        official: Whether V sums the squares of all M modalities, with absent ones as zeros.

    Returns:
        E and V, each (B, C, H, W) in float32.
    """
    # float32: the difference of two similar maps loses most digits in half precision.
    maps = [x.float() for x in maps]
    present = mask[:, :, None, None, None]
    count = present.sum(1).clamp(min=1)
    mean = total(maps) / count
    gaps = [x - mean for x in maps]
    if not official:
        gaps = [gap.where(present[:, m], 0.0) for m, gap in enumerate(gaps)]
    n = (count - 1).clamp(min=1) if estimator == 'sample' else count
    variance = total(gap.square() for gap in gaps) / n
    return mean, variance.where(count > 1, 0.0) if official else variance


class MomentFusion(nn.Module):
    """Fusion by the concatenated moments [E; V] at every scale.

    In segmentation a 1x1 convolution reduces them to the channels of one modality.

    Args:
        task: Gives modalities and channels.
        estimator: As in `moments`.
        official: As in `moments`.

    Raises:
        UserError: The task's network is ESANet, which fuses while it encodes.
    """

    def __init__(self, task: Task, estimator: str = 'population', official: bool = False) -> None:
        super().__init__()
        if task.network != 'pyramid':
            raise UserError(
                f'fusion by moments: expected network=pyramid, found network={task.network}, whose '
                'encoders fuse by themselves'
            )
        self.names = task.names
        self.estimator, self.official = estimator, official
        self.reduce = nn.ModuleList(
            ConvModule(2 * c, c, 1, norm_cfg={'type': 'BN'})
            for c in fused_channels(task)
            if task.kind == 'segmentation'
        )

    @staticmethod
    def channels(task: Task) -> int:
        """Returns the number of channels of the fused map in classification."""
        return 2 * fused_channels(task)[0]

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Fuses the maps of the modalities that mask (B, M) allows into one map per scale."""
        scales = masked(features, mask, self.names)
        joined = [
            torch.cat(moments(maps, mask, self.estimator, self.official), 1) for maps in scales
        ]
        if not self.reduce:
            return tuple(joined)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))
