"""RFNet's networks: probability maps of regions, and the fusion of modalities region by region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from methods.common.losses import total
from methods.common.resize import bilinear

SLOPE = 0.2
"""Slope of all leaky ReLUs for negative inputs."""
HIDDEN = 128
"""Hidden units of the perceptron that weights the modalities in one region."""
TOGETHER = 8
"""Number of regions whose features are held in memory at once."""


class Pointwise(nn.Conv2d):
    """A 1x1 convolution without bias, computed as a matrix product: faster for few channels.

    Args:
        inputs: Number of input channels C.
        outputs: Number of output channels C'.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C', H, W)."""
        kernel = self.weight.flatten(1).expand(len(x), -1, -1)
        return torch.bmm(kernel, x.flatten(2)).unflatten(2, x.shape[2:])


def plain(norm: Callable[..., nn.Module]) -> type[nn.Conv2d] | type[nn.Conv3d]:
    """Returns the class of the convolutions whose maps a class of normalisations takes."""
    return nn.Conv3d if norm is nn.InstanceNorm3d else nn.Conv2d


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    norm: Callable[..., nn.Module] = nn.InstanceNorm2d,
    stride: int = 1,
) -> nn.Sequential:
    """Returns a zero-padded convolution, a norm without affine parameters, and a leaky ReLU.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        kernel: Side of the kernel, odd.
        norm: Class of the normalisation; that of volumes asks for a convolution of volumes.
        stride: Step of the kernel; of a kernel of one pixel it is 1.
    """
    layer: nn.Module
    kind = plain(norm)
    if kernel == 1 and kind is nn.Conv2d:
        layer = Pointwise(inputs, outputs)
    else:
        layer = kind(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, norm(outputs, affine=False), nn.LeakyReLU(SLOPE, inplace=True))


def bottleneck(
    inputs: int, narrow: int, outputs: int, norm: Callable[..., nn.Module] = nn.InstanceNorm2d
) -> nn.Sequential:
    """Returns three `conv`s with kernels 1, 3, 1 and `narrow` channels between them."""
    return nn.Sequential(
        conv(inputs, narrow, 1, norm), conv(narrow, narrow, 3, norm), conv(narrow, outputs, 1, norm)
    )


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resizes maps (B, C, H, W) to (B, C, *size) as the released code does, corners aligned."""
    return bilinear(x, size, align_corners=True)


class ProbabilityMaps(nn.Module):
    """Predicts p_r, the probability that a pixel belongs to region (class) r, at one scale.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
        regions: Number of regions R.
        norm: Class of the normalisation.
        decoded: Whether the maps read the decoded path, too, as at all scales but the coarsest.
    """

    def __init__(
        self,
        count: int,
        channels: int,
        regions: int,
        norm: type[nn.Module] = nn.InstanceNorm2d,
        decoded: bool = True,
    ) -> None:
        super().__init__()
        self.embed = bottleneck(count * channels, max(channels // 4, 4), channels, norm)
        joined = 2 * channels if decoded else channels
        self.classify = nn.Sequential(conv(joined, 16, 1, norm), plain(norm)(16, regions, 1))

    def forward(self, joined: Tensor, above: Tensor | None) -> Tensor:
        """Predicts the probability maps.

        Args:
            joined: The M masked maps, (B, M C, H, W).
            above: What `RegionDecoder.ascend` gives for this scale, (B, C, H, W); None at the
                coarsest scale.

        Returns:
            p, (B, R, H, W), in float32.
        """
        y = self.embed(joined)
        if above is not None:
            y = torch.cat([above.to(y.dtype), y], 1)
        return self.classify(y).float().softmax(1)


class RegionDecoder(nn.Module):
    """RFNet's decoder: a path from the coarsest scale to the finest that joins a map at each one.

        x_S = f_S,  a_s = conv3(up(x_{s+1})),  x_s = conv1(conv3([f_s; a_s])),  logits = head(x_1)

    Args:
        channels: Channels of the maps f_s, finest scale first.
        norms: Class of the normalisation at each scale.
        classes: Number of classes.
        size: Height and width of the images, or the three sides of the patches of volumes.
    """

    def __init__(
        self,
        channels: Sequence[int],
        norms: Sequence[type[nn.Module]],
        classes: int,
        size: Sequence[int],
    ) -> None:
        super().__init__()
        self.size = size
        each = list(zip(channels[:-1], channels[1:], norms[:-1], strict=True))
        self.rise = nn.ModuleList(conv(deeper, c, 3, norm) for c, deeper, norm in each)
        self.join = nn.ModuleList(
            nn.Sequential(conv(2 * c, c, 3, norm), conv(c, c, 1, norm)) for c, _, norm in each
        )
        self.head = plain(norms[0])(channels[0], classes, 1)

    def ascend(self, scale: int, deeper: Tensor, size: Sequence[int]) -> Tensor:
        """Returns a_s from x_{s+1}.

        Args:
            scale: s, counted from 0, the finest.
            deeper: x_{s+1}, (B, C', H', W').
            size: Height and width of scale s.
        """
        return self.rise[scale](upsample(deeper, size))

    def merge(self, scale: int, fused: Tensor, above: Tensor) -> Tensor:
        """Returns x_s from f_s and a_s."""
        return self.join[scale](torch.cat([fused, above.to(fused.dtype)], 1))

    def logits(self, x: Tensor) -> Tensor:
        """Returns logits (B, K, H, W), at the resolution of the images, from x_1."""
        return upsample(self.head(x), self.size)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Returns x_s of all scales from maps (B, C, H, W) of all scales, both finest first."""
        found = [maps[-1]]
        for s in reversed(range(len(maps) - 1)):
            above = self.ascend(s, found[0], maps[s].shape[2:])
            found.insert(0, self.merge(s, maps[s], above))
        return found

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the logits of maps (B, C, H, W) of all scales, finest first."""
        return self.logits(self.levels(maps)[0])


def region_average(joined: Tensor, probability: Tensor) -> tuple[Tensor, Tensor]:
    """Averages features over each soft region.

    The region's size is divided out, so that small regions have features as large as big ones.

    Args:
        joined: Maps (B, D, H, W).
        probability: p (B, R, H, W).

    Returns:
        The averages g_r = mean_v p_r F / mean_v p_r, (B, R, D), and the sizes mean_v p_r,
        (B, R, 1), both in float32; v runs over pixels.
    """
    # float32, even inside autocast: half precision would lose small regions in these sums.
    with torch.autocast(joined.device.type, enabled=False):
        p, x = probability.flatten(2), joined.float().flatten(2)
        # 1e-7, as in the released code, keeps an empty region from dividing by zero.
        size = p.mean(2, keepdim=True) + 1e-7
        return torch.bmm(p, x.transpose(1, 2)) / p.shape[2] / size, size


def split_regions(maps: Tensor, weights: Tensor, probability: Tensor) -> Tensor:
    """Returns the weighted modalities of each region, H_r = p_r sum_i w_{i,r} m_i F_i.

    p_r is factored out of the sum over modalities, so that no tensor of all regions and modalities
    is built.

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
    """Fuses the modalities, weighted separately in every region, at one scale.

        w_r = sigmoid(W2_r lrelu(W1_r [g_{1,r}; ..; g_{M,r}; mean p_r]))
        H_r = p_r sum_i w_{i,r} m_i F_i
        out = [Phi(H_1, .., H_R); Psi(m_1 F_1, .., m_M F_M)]

    Phi's first convolution is computed for a few regions at a time and summed, which is the same
    function and bounds the memory that many classes need.

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map, and of the fused map.
        regions: Number of regions R.
        norm: Class of the normalisation.
    """

    def __init__(
        self, count: int, channels: int, regions: int, norm: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        # With one group per region, each region has a perceptron of its own.
        self.weigh = nn.Sequential(
            nn.Conv1d(regions * (count * channels + 1), regions * HIDDEN, 1, groups=regions),
            nn.LeakyReLU(SLOPE),
            nn.Conv1d(regions * HIDDEN, regions * count, 1, groups=regions),
        )
        half = channels // 2
        self.phi = bottleneck(regions * channels, channels, channels - half, norm)
        self.psi = bottleneck(count * channels, channels, half, norm)

    def weights(self, joined: Tensor, probability: Tensor) -> Tensor:
        """Returns the weights w of the modalities in each region.

        They are independent sigmoids: a larger weight of one modality reduces no other.

        Args:
            joined: The M masked maps, (B, M C, H, W).
            probability: p, (B, R, H, W).

        Returns:
            (B, R, M), between 0 and 1.
        """
        average, size = region_average(joined, probability)
        pooled = torch.cat([average, size], 2)
        return self.weigh(pooled.flatten(1)[:, :, None]).view(*pooled.shape[:2], -1).sigmoid()

    def forward(self, maps: Tensor, probability: Tensor) -> Tensor:
        """Fuses the modalities.

        Args:
            maps: The masked maps m_i F_i, (B, M, C, H, W).
            probability: p, (B, R, H, W).

        Returns:
            (B, C, H, W).
        """
        joined = maps.flatten(1, 2)
        weights = self.weights(joined, probability)
        first, *refine = self.phi
        merge = cast(nn.Sequential, first)
        kernels = merge.get_parameter('0.weight').split(TOGETHER * maps.shape[2], 1)
        parts = zip(
            weights.split(TOGETHER, 1), probability.split(TOGETHER, 1), kernels, strict=True
        )
        convolve = F.conv3d if maps.ndim == 6 else F.conv2d
        y = merge[1:](total(convolve(split_regions(maps, w, p), k) for w, p, k in parts))
        for layer in refine:
            y = layer(y)
        return torch.cat([y, self.psi(joined)], 1)
