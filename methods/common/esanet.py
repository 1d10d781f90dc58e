"""ESANet, the segmentation network of MMANet's and DMRNet's papers; it fuses at five points.

Seichter et al., Efficient RGB-D Semantic Segmentation for Indoor Scene Analysis, ICRA 2021 (arXiv
2011.06961), with the masks of MMANet (Wei et al., CVPR 2023). The residual stages, the blocks of
the decoder and pyramid pooling are those of mmsegmentation. Weights that no checkpoint holds begin
as He et al. (ICCV 2015) draw them, as in MMANet's script for Cityscapes; its script for NYUv2, and
that of DMRNet, leave them as PyTorch draws them.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.erfnet import NonBottleneck1d
from mmseg.models.decode_heads.psp_head import PPM
from torch import Tensor, nn

from benchmark.method import Task
from methods.common.losses import total
from methods.common.resnet import EXPANSION, kaiming, resnet, small

BINS = (1, 5)
"""Sides of the grids to which the context module pools, ESANet's for NYUv2."""
BLOCKS = 3
"""Number of residual blocks in each module of the decoder."""


def conv(inputs: int, outputs: int, kernel: int) -> ConvModule:
    """Returns a convolution that keeps the resolution, followed by BatchNorm and ReLU."""
    return ConvModule(inputs, outputs, kernel, padding=kernel // 2, norm_cfg={'type': 'BN'})


def stage(net: ResNet, depth: int, x: Tensor) -> Tensor:
    """Applies one part of a ResNet: its stem (depth 0) or its stage `depth` (1 to 4)."""
    if depth == 0:
        return net.relu(net.norm1(net.conv1(x)))
    return getattr(net, net.res_layers[depth - 1])(net.maxpool(x) if depth == 1 else x)


class Excitation(nn.Sequential):
    """Squeeze-and-excitation: a factor between 0 and 1 for every channel of every sample.

    Its two layers are 1x1 convolutions of the mean over the image, with a sixteenth of the channels
    between them, and 4 at the least: 4 where `width` is 64 and after the stem, as in the official
    network. mmsegmentation's layer would round them up to 8. The weights of the second one, which a
    sigmoid follows, are PyTorch's, as in that network.

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int) -> None:
        hidden = max(4, channels // 16)
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            kaiming(nn.Conv2d(channels, hidden, 1)),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weighs the channels of (B, C, H, W)."""
        return x * super().forward(x)


class Context(nn.Module):
    """Pyramid pooling: joins each position with averages over the whole image and its parts.

    Args:
        inputs: Number of channels C of the input.
        outputs: Number of channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        part = inputs // len(BINS)
        norm, act = {'type': 'BN'}, {'type': 'ReLU'}
        self.pools = PPM(BINS, inputs, part, None, norm, act, align_corners=False)
        self.join = conv(inputs + part * len(BINS), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, outputs, H, W)."""
        # Repeating the nearest pixel is what ESANet does, where PSPNet interpolates bilinearly.
        pooled = [F.interpolate(pool(x), x.shape[2:], mode='nearest') for pool in self.pools]
        return self.join(torch.cat([x, *pooled], 1))


class ESANetEncoder(nn.Module):
    """Encoder that fuses while it encodes: inputs and a mask -> the decoder's four maps.

    Every modality has a ResNet, its stream. After the stem and after each of the four stages, each
    stream is weighted by its own squeeze-and-excitation, and the results are added; the sum
    replaces the stream of the first modality, and the other streams continue unchanged. A stream
    that the mask excludes is set to zero before each squeeze-and-excitation and so adds nothing.
    This holds for the first stream, too, although it carries the earlier sums: without the first
    modality, its ResNet has no effect. ESANet has two streams, rgb and depth; the extension to more
    streams is this project's.

    The four maps are the fused maps of the first three stages, each after a 1x1 convolution, with
    2, 4 and 8 `width` channels, and the context module's map with 8 `width` channels.

    Args:
        task: Gives modalities, width, depth and pretrained weights.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names, w = task.names, task.width
        self.streams = nn.ModuleDict({m.name: resnet(m, task, 4) for m in task.modalities})
        fused = [w, *(w * EXPANSION[task.depth] * f for f in (1, 2, 4, 8))]
        self.excitations = nn.ModuleList(
            nn.ModuleDict({name: Excitation(c) for name in self.names}) for c in fused
        )
        self.skips = nn.ModuleList(
            conv(c, f * w, 1) if c != f * w else nn.Identity()
            for c, f in zip(fused[1:4], (2, 4, 8), strict=True)
        )
        self.context = Context(fused[4], 8 * w)

    def fused(self, inputs: dict[str, Tensor], mask: Tensor) -> list[Tensor]:
        """Returns the fused maps after the stem and after each of the four stages, finest first.

        Args:
            inputs: Modality name -> (B, C, H, W); a sensor that is off may be left out.
            mask: (B, M) bool.

        Returns:
            Five maps; the channels are `width` after the stem and, with e = `EXPANSION` of the
            depth, e, 2e, 4e and 8e times `width` after the stages.
        """
        streams = {name: inputs[name] for name in self.names if name in inputs}
        keep = dict(zip(self.names, mask.T[:, :, None, None, None], strict=True))
        sums: list[Tensor] = []
        for depth, excite in enumerate(self.excitations):
            streams = {name: stage(self.streams[name], depth, x) for name, x in streams.items()}
            # A selection, not a product: excluded inputs may hold NaN, and 0 times NaN is NaN.
            shown = {n: torch.where(keep[n], x, x.new_zeros(())) for n, x in streams.items()}
            gates = cast(nn.ModuleDict, excite)
            sums.append(total(gates[name](x) for name, x in shown.items()))
            if self.names[0] in streams:
                streams[self.names[0]] = sums[-1]
        return sums

    def forward(self, inputs: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Encodes the modalities that a mask allows.

        Args:
            inputs: Modality name -> (B, C, H, W); a sensor that is off may be left out.
            mask: (B, M) bool.

        Returns:
            Four maps, finest first.
        """
        _, *shallow, deepest = self.fused(inputs, mask)
        skips = (reduce(x) for reduce, x in zip(self.skips, shallow, strict=True))
        return (*skips, self.context(deepest))


class Upsample(nn.Module):
    """Learned upsampling: the nearest pixel, then a 3x3 convolution of each channel by itself.

    The initial weights make it bilinear upsampling.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        row = torch.tensor([0.25, 0.5, 0.25])
        nn.init.zeros_(self.smooth.get_parameter('bias'))
        with torch.no_grad():
            self.smooth.weight.copy_(torch.outer(row, row))

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Resizes (B, C, H, W) to `size`, twice the height and width or one pixel less."""
        return self.smooth(F.interpolate(x, size, mode='nearest'))


class DecoderModule(nn.Module):
    """One step of the decoder: convolution, residual blocks, upsampling, addition of a skip map.

    Args:
        inputs: Number of input channels.
        outputs: Number of channels of the module and of the skip map.
        classes: Number of classes of the side output.
    """

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        blocks = (kaiming(NonBottleneck1d(outputs)) for _ in range(BLOCKS))
        self.refine = nn.Sequential(conv(inputs, outputs, 3), *blocks)
        self.side = nn.Conv2d(outputs, classes, 1)
        self.upsample = Upsample(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the module.

        Args:
            x: (B, inputs, H, W).
            skip: (B, outputs, 2 H, 2 W), up to an odd pixel.

        Returns:
            The map at the skip's scale, and the refined map before upsampling, (B, outputs, H, W),
            from which the side output is computed.
        """
        refined = self.refine(x)
        return self.upsample(refined, skip.shape[2:]) + skip, refined


class ESANetDecoder(nn.Module):
    """ESANet's decoder: maps of `ESANetEncoder` -> logits at the resolution of the images.

    Three modules with 8, 4 and 2 `width` channels, a convolution that classifies at the finest
    scale, and two more steps of upsampling; only one step if the images are so small that the stem
    does not pool them.

    Args:
        task: Gives width, classes and the size of the images.

    Attributes:
        channels: Channels of the deepest of `maps`.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        w, classes = task.width, len(task.classes)
        self.channels = 8 * w
        widths = ((8 * w, 8 * w), (8 * w, 4 * w), (4 * w, 2 * w))
        self.modules_by_scale = nn.ModuleList(DecoderModule(i, o, classes) for i, o in widths)
        self.classify = nn.Conv2d(2 * w, classes, 3, padding=1)
        height, width = task.modalities[0].shape[1:]
        halves = ((height + 1) // 2, (width + 1) // 2)
        sizes = [(height, width)] if small(task.modalities[0]) else [halves, (height, width)]
        self.sizes = sizes
        self.grow = nn.ModuleList(Upsample(classes) for _ in sizes)

    def maps(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the maps that distillation compares: skip maps and context map, unchanged."""
        return fused

    def outputs(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns all logits that the task's loss supervises.

        Args:
            maps: As `maps` returns them.

        Returns:
            Logits (B, K, H, W); in training mode also side outputs (B, K, H', W') at 1/32, 1/16
            and 1/8 of the input's resolution, twice that for small images.
        """
        *skips, x = maps
        sides = []
        for part, skip in zip(self.modules_by_scale, reversed(skips), strict=True):
            module = cast(DecoderModule, part)
            x, refined = module(x, skip)
            if self.training:
                sides.append(module.side(refined))
        x = self.classify(x)
        for upsample, size in zip(self.grow, self.sizes, strict=True):
            x = upsample(x, size)
        return (x, *sides)

    def logits(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Returns logits (B, K, H, W) from `maps`."""
        return self.outputs(maps)[0]

    def feature(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Returns the output of the deepest module, (B, 8 width, H / 16, W / 16)."""
        return self.modules_by_scale[0](maps[-1], maps[-2])[0]

    def forward(self, fused: tuple[Tensor, ...]) -> Tensor:
        """Returns logits (B, K, H, W) from the encoder's maps."""
        return self.logits(self.maps(fused))
