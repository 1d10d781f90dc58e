"""RFNet: region-aware fusion, with a decoder shared by the modalities as its regulariser."""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from benchmark.method import Method
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.losses import segmentation_loss
from methods.common.networks import (
    ClassificationDecoder,
    Encoders,
    SegmentationDecoder,
    fused_channels,
    masked,
)

SLOPE = 0.2
HIDDEN = 128
"""Units of the perceptron that weighs the modalities in one region."""
TOGETHER = 8
"""Regions whose features are held at once."""


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias as the matrix product it is, faster for few channels."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, 1, bias=False)

    def forward(self, x):
        """Maps (B, C, H, W) to (B, C', H, W)."""
        kernel = self.weight.flatten(1).expand(len(x), -1, -1)
        return torch.bmm(kernel, x.flatten(2)).unflatten(2, x.shape[2:])


def conv(inputs, outputs, kernel, norm=nn.InstanceNorm2d):
    """Returns zero-padded convolution, `norm` without affine parameters, leaky ReLU."""
    if kernel == 1:
        layer = Pointwise(inputs, outputs)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(layer, norm(outputs, affine=False), nn.LeakyReLU(SLOPE, inplace=True))


def bottleneck(inputs, narrow, outputs, norm=nn.InstanceNorm2d):
    """Returns three `conv`s with kernels 1, 3, 1."""
    return nn.Sequential(
        conv(inputs, narrow, 1, norm), conv(narrow, narrow, 3, norm), conv(narrow, outputs, 1, norm)
    )


def upsample(x, size):
    """Resizes (B, C, H, W) bilinearly, in float32.

    Two matrix products: the same numbers as `F.interpolate` at a fraction of its cost on CPUs, and
    with a deterministic gradient on GPUs.
    """

    def rows(count, length):
        basis = torch.eye(count, device=x.device)[:, None]
        return F.interpolate(basis, length, mode='linear')[:, 0]

    with torch.autocast(x.device.type, enabled=False):
        return rows(x.shape[2], size[0]).T @ x.float() @ rows(x.shape[3], size[1])


class ProbabilityMaps(nn.Module):
    """Maps p_r of how likely each pixel belongs to region (class) r, at one scale.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
        regions: Number of regions R.
        deeper: Channels of the next coarser scale's fused map; 0 at the coarsest.
    """

    def __init__(self, count, channels, regions, deeper):
        super().__init__()
        self.embed = bottleneck(count * channels, max(channels // 4, 4), channels)
        self.descend = conv(deeper, channels, 1) if deeper else None
        joined = 2 * channels if deeper else channels
        self.classify = nn.Sequential(conv(joined, 16, 1), nn.Conv2d(16, regions, 1))

    def forward(self, joined, deeper):
        """Returns p (B, R, H, W) in float32 from the maps (B, M C, H, W) and the deeper fusion."""
        y = self.embed(joined)
        if self.descend is not None:
            above = upsample(self.descend(deeper), y.shape[2:])
            y = torch.cat([y, above.to(y.dtype)], 1)
        return self.classify(y).float().softmax(1)


def region_average(joined, probability):
    """Pools features over soft regions, whatever the regions' sizes.

    Args:
        joined: Maps (B, D, H, W).
        probability: p (B, R, H, W).

    Returns:
        g_r = mean_v p_r F / mean_v p_r (B, R, D) and the sizes mean_v p_r (B, R, 1), in float32.
    """
    # Sums over thousands of pixels: half precision would lose small regions.
    with torch.autocast(joined.device.type, enabled=False):
        p, x = probability.flatten(2), joined.float().flatten(2)
        size = p.mean(2, keepdim=True) + 1e-7
        return torch.bmm(p, x.transpose(1, 2)) / p.shape[2] / size, size


def split_regions(maps, weights, probability):
    """Returns H_r = p_r sum_i w_{i,r} m_i F_i, the modalities summed before p_r multiplies.

    Args:
        maps: m_i F_i (B, M, C, H, W).
        weights: w (B, R, M).
        probability: p (B, R, H, W).

    Returns:
        (B, R C, H, W), region by region.
    """
    mixed = torch.bmm(weights.to(maps.dtype), maps.flatten(2))
    mixed = mixed.view(*weights.shape[:2], *maps.shape[2:])
    return (mixed * probability[:, :, None].to(mixed.dtype)).flatten(1, 2)


class RegionFusion(nn.Module):
    """Fuses the modalities with weights of their own in every region, at one scale.

        w_r = sigmoid(W2_r lrelu(W1_r [g_{1,r}; ..; g_{M,r}; mean p_r]))
        H_r = p_r sum_i w_{i,r} m_i F_i
        out = [Phi(H_1, .., H_R); Psi(m_1 F_1, .., m_M F_M)]

    Phi's first convolution is summed over a few regions at a time, which is exactly the same and
    bounds the memory of many classes.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map, and of the fused map.
        regions: Number of regions R.
        norm: Class of the normalisation.
    """

    def __init__(self, count, channels, regions, norm):
        super().__init__()
        self.weigh = nn.Sequential(  # groups: each region has its own perceptron
            nn.Conv1d(regions * (count * channels + 1), regions * HIDDEN, 1, groups=regions),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(regions * HIDDEN, regions * count, 1, groups=regions),
        )
        half = channels // 2
        self.phi = bottleneck(regions * channels, channels, channels - half, norm)
        self.psi = bottleneck(count * channels, channels, half, norm)

    def weights(self, joined, probability):
        """Returns w (B, R, M) in (0, 1): independent sigmoids, no competition of modalities."""
        average, size = region_average(joined, probability)
        pooled = torch.cat([average, size], 2)
        return self.weigh(pooled.flatten(1)[:, :, None]).view(*pooled.shape[:2], -1).sigmoid()

    def forward(self, maps, probability):
        """Returns (B, C, H, W) from the masked maps (B, M, C, H, W) and p (B, R, H, W)."""
        joined = maps.flatten(1, 2)
        weights = self.weights(joined, probability)
        merge, *refine = self.phi
        kernels = merge[0].weight.split(TOGETHER * maps.shape[2], 1)
        parts = zip(
            weights.split(TOGETHER, 1), probability.split(TOGETHER, 1), kernels, strict=True
        )
        y = merge[1:](sum(F.conv2d(split_regions(maps, w, p), kernel) for w, p, kernel in parts))
        for layer in refine:
            y = layer(y)
        return torch.cat([y, self.psi(joined)], 1)


@METHODS.register_module('rfnet')
class RFNet(Method):
    """Region-aware fusion network (Ding, Yu and Yang, RFNet, ICCV 2021).

    At every scale, coarsest first, probability maps of the classes are learned from the masked
    features and the deeper fusion (`ProbabilityMaps`); they split the image into soft regions, in
    each of which the modalities are weighed anew (`RegionFusion`). No gradient flows from the
    fusion into its maps. A decoder shared by the modalities must segment from each of them alone,
    whatever the mask: the segmentation-based regulariser. All terms count 1:

        L = [epoch >= start] L_fuse + sum_i L_sep,i + sum_scales L_prm

    each `segmentation_loss`, the maps being supervised at the input's resolution. Where data have
    real gaps, L_sep,i covers the samples that have modality i; without gaps it is the paper's.

    The paper is about 3-D MRI. The 2-D form and the classification form are this project's
    adaptations, as no code of either has been published. They share this suite's encoders and
    decoders; the feature pyramid takes the place of RFNet's path of concatenations, and the
    deeper fusion reaches the maps through a 1x1 convolution. Classification has one region of
    probability 1 and no maps: gated modalities beside the shortcut, cross-entropy for the losses,
    and the backbone's batch normalisation, as instance normalisation is undefined on the one pixel
    at which vectors are fused.

    The weighted sum is that of the released code, whose authors call it a simplification; the
    heavier fusion that the paper describes was not available to check against. Convolutions pad
    with zeros: the released code asks for reflection, which the torch of its time is believed to
    have ignored (not verified), so that on today's torch it is another network.

    Args:
        task: What the dataset asks.
        fuse_start: Share of the epochs before L_fuse sets in; the paper's is 20 of 300.
    """

    search = {'fuse_start': Uniform(0, 0.5)}

    def __init__(self, task, *, fuse_start=20 / 300):
        super().__init__(task)
        self.fuse_start = fuse_start
        self.encoders = Encoders(task)
        count, channels = len(task.modalities), fused_channels(task)
        if task.kind == 'segmentation':
            regions, norm, decoder = len(task.classes), nn.InstanceNorm2d, SegmentationDecoder
            coarser = zip(channels, (*channels[1:], 0), strict=True)
            maps = [ProbabilityMaps(count, c, regions, deeper) for c, deeper in coarser]
        else:
            regions, norm, maps = 1, nn.BatchNorm2d, []
            decoder = partial(ClassificationDecoder, channels=channels[0])
        self.maps = nn.ModuleList(maps)
        self.fusions = nn.ModuleList(RegionFusion(count, c, regions, norm) for c in channels)
        self.decoder = decoder(task)
        self.separate = decoder(task)

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return self.encoders(inputs)

    def fuse(self, features, mask):
        """Fuses under a mask (B, M).

        Returns:
            The fused maps and the probability maps (B, R, H, W), finest scale first; there are no
            probability maps in classification.
        """
        fused, probabilities = [], []
        scales = [torch.stack(maps, 1) for maps in masked(features, mask, self.task.names)]
        for s in reversed(range(len(scales))):
            maps = scales[s]
            if self.maps:
                p = self.maps[s](maps.flatten(1, 2), fused[0] if fused else None)
                probabilities.insert(0, p)
            else:
                p = torch.ones_like(maps[:, 0, :1], dtype=torch.float32)
            fused.insert(0, self.fusions[s](maps, p.detach()))
        return tuple(fused), probabilities

    def decode(self, features, mask):
        """Returns the fused logits; mask (B, M) bool."""
        return self.decoder(self.fuse(features, mask)[0])

    def criterion(self, logits, target, counted):
        """Returns the losses of T predictions of one target, (T,).

        Args:
            logits: (T, B, K) or (T, B, K, H, W).
            target: (B,) or (B, H, W).
            counted: (T, B) bool, which samples count in which term; one of none has no gradient.
        """
        logits = logits.float()
        if self.task.kind == 'segmentation':
            return segmentation_loss(logits.softmax(2), target, counted)
        entropy = F.cross_entropy(
            logits.flatten(0, 1), target.repeat(len(logits)), reduction='none'
        ).view_as(counted)
        return entropy.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1)

    def separate_losses(self, features, batch):
        """Returns the shared decoder's loss on each modality alone, (M,).

        One pass over all modalities, stacked along the batch; all that the data have counts,
        whatever the mask.
        """
        maps = zip(*(features[name] for name in self.task.names), strict=True)
        logits = self.separate(tuple(torch.cat(scale) for scale in maps))
        logits = logits.unflatten(0, (len(self.task.names), -1))
        return self.criterion(logits, batch.target, batch.available.T)

    def loss(self, batch):
        """Returns loss_fuse, loss_sep and, in segmentation, loss_prm."""
        features = self.encode(batch.inputs)
        fused, probabilities = self.fuse(features, batch.mask)
        started = float(self.epoch >= round(self.fuse_start * self.epochs))
        seen = batch.mask.any(1)[None]
        fuse = self.criterion(self.decoder(fused)[None], batch.target, seen)
        losses = {
            'loss_fuse': started * fuse.sum(),
            'loss_sep': self.separate_losses(features, batch).sum(),
        }
        if probabilities:
            full = torch.stack([upsample(p, batch.target.shape[1:]) for p in probabilities])
            seen = seen.expand(len(full), -1)
            losses['loss_prm'] = segmentation_loss(full, batch.target, seen).sum()
        return losses
