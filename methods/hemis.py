"""HeMIS: fusion by the mean and the variance of the present modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import Task
from benchmark.registry import METHODS
from methods.common.losses import squared_dice, total
from methods.common.networks import Maps, decoder, fused_channels, masked
from methods.modality_dropout import ModalityDropout


def moments(
    maps: Sequence[Tensor], mask: Tensor, estimator: str = 'population', official: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns mean and variance over the modalities that are present.

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
    """

    def __init__(self, task: Task, estimator: str, official: bool) -> None:
        super().__init__()
        self.names = task.names
        self.estimator, self.official = estimator, official
        self.reduce = nn.ModuleList(
            ConvModule(2 * c, c, 1, norm_cfg={'type': 'BN'})
            for c in fused_channels(task)
            if task.kind == 'segmentation'
        )

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Fuses the maps of the modalities that mask (B, M) allows into one map per scale."""
        scales = masked(features, mask, self.names)
        joined = [
            torch.cat(moments(maps, mask, self.estimator, self.official), 1) for maps in scales
        ]
        if not self.reduce:
            return tuple(joined)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))


@METHODS.register_module('hemis')
class HeMIS(ModalityDropout):
    """Hetero-modal image segmentation.

    Havaei, Guizard, Chapados & Bengio, HeMIS: Hetero-Modal Image Segmentation, MICCAI 2016 (arXiv
    1607.05194). Each modality is embedded in a common space, in which embeddings can be averaged.
    The decoder receives mean and variance of the embeddings that are present (`moments`), so that
    an absent modality is left out of the statistics and need not be imputed. L = L_task.

    The moments are taken at every scale, as in U-HeMIS, the U-Net form that later papers compare
    with (Dorent et al., MICCAI 2019), and with its population variance. The original network has a
    single scale and is believed to use the sample variance (not verified). In segmentation a 1x1
    convolution reduces [E; V] to the channels of the decoder.

    Departures: the original drops modalities more and more often during the training; here the
    training sampler decides, as in U-HeMIS. With loss=own the loss is that of official U-HeMIS,
    cross-entropy plus `squared_dice`.

    variant='official' follows the classification code that MMANet's authors (CVPR 2023) released.
    Its variance counts an absent modality as an embedding of zero, which adds (M - |K|) E^2 / |K|
    to V if more than one modality is present.

    Args:
        task: What the data set requires.
        estimator: 'population' or 'sample' variance.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The estimator or the variant is unknown.
    """

    def __init__(
        self,
        task: Task,
        *,
        estimator: Literal['population', 'sample'] = 'population',
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if estimator not in ('population', 'sample'):
            raise unknown('estimator of hemis', estimator, ('population', 'sample'))
        if variant not in ('paper', 'official'):
            raise unknown('variant of hemis', variant, ('paper', 'official'))
        # They replace the parts of modality dropout, which fuses by concatenation.
        self.fusion = MomentFusion(task, estimator, variant == 'official')
        self.decoder = decoder(task, channels=2 * fused_channels(task)[0])

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns cross-entropy plus `squared_dice`; arguments as in `task_loss`."""
        return self.cross_entropy(logits, target) + squared_dice(logits, target)
