"""HeMIS: fusion by the mean and the variance of whatever modalities are there."""

import torch
from mmcv.cnn import ConvModule
from torch import nn

from benchmark.errors import unknown
from benchmark.registry import METHODS
from methods.common.networks import decoder, fused_channels, masked
from methods.modality_dropout import ModalityDropout


def moments(maps, mask, estimator='population', official=False):
    """Returns mean and variance over the modalities that are present, in float32.

        E = 1/|K| sum_{i in K} C_i,  V = 1/n sum_{i in K} (C_i - E)^2,  n = |K| or |K| - 1

    V is exactly zero where one modality is present, and so is its gradient.

    Args:
        maps: The M modalities' maps (B, C, H, W), zero where absent.
        mask: K, (B, M) bool.
        estimator: 'population' divides V by |K|, 'sample' by |K| - 1.
        official: V sums the squares of all M modalities, absent ones as zeros.

    Returns:
        E and V, (B, C, H, W) each.
    """
    maps = [x.float() for x in maps]  # half precision loses the difference of close maps
    present = mask[:, :, None, None, None]
    count = present.sum(1).clamp(min=1)
    mean = sum(maps) / count
    gaps = [x - mean for x in maps]
    if not official:
        gaps = [gap.where(present[:, m], 0.0) for m, gap in enumerate(gaps)]
    n = (count - 1).clamp(min=1) if estimator == 'sample' else count
    variance = sum(gap.square() for gap in gaps) / n
    return mean, variance.where(count > 1, 0.0) if official else variance


class MomentFusion(nn.Module):
    """Fusion by [E; V] at every scale, reduced by a 1x1 convolution in segmentation.

    Args:
        task: Gives modalities and channels.
        estimator: As in `moments`.
        official: As in `moments`.
    """

    def __init__(self, task, estimator, official):
        super().__init__()
        self.names = task.names
        self.estimator, self.official = estimator, official
        self.reduce = nn.ModuleList(
            ConvModule(2 * c, c, 1, norm_cfg={'type': 'BN'})
            for c in fused_channels(task)
            if task.kind == 'segmentation'
        )

    def forward(self, features, mask):
        """Fuses {modality: maps} under a mask (B, M) into one map per scale."""
        scales = masked(features, mask, self.names)
        joined = [
            torch.cat(moments(maps, mask, self.estimator, self.official), 1) for maps in scales
        ]
        if not self.reduce:
            return tuple(joined)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))


@METHODS.register_module('hemis')
class HeMIS(ModalityDropout):
    """Hetero-modal image segmentation (Havaei et al., HeMIS, MICCAI 2016, arXiv 1607.05194).

    Each modality is embedded in a common space, where arithmetic has a meaning; the decoder sees
    the first two moments of the embeddings that are present, so an absent modality is left out of
    the statistics instead of being imputed. The task loss alone trains it.

    The moments are taken at every scale, as in U-HeMIS, the U-Net form that later papers compare
    with (Dorent et al., MICCAI 2019), and with its population variance; the original network works
    at a single scale and is believed to use the sample variance (not verified). In segmentation a
    1x1 convolution brings [E; V] to the decoder's channels. The original's curriculum, which drops
    modalities more often as training goes on, is the training sampler's business and not done
    here; U-HeMIS does without it.

    variant='official' does as the classification code that MMANet's authors (CVPR 2023) released:
    its variance counts an absent modality as an embedding of zero, which adds
    (M - |K|) E^2 / |K| to V unless a single modality is present.

    Args:
        task: What the dataset asks.
        estimator: 'population' or 'sample' variance.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An unknown estimator or variant.
    """

    def __init__(self, task, *, estimator='population', variant='paper'):
        super().__init__(task)
        if estimator not in ('population', 'sample'):
            raise unknown('estimator of hemis', estimator, ('population', 'sample'))
        if variant not in ('paper', 'official'):
            raise unknown('variant of hemis', variant, ('paper', 'official'))
        self.fusion = MomentFusion(task, estimator, variant == 'official')
        self.decoder = decoder(task, channels=2 * fused_channels(task)[0])
