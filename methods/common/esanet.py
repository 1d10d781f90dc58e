"""ESANet, the papers' segmentation network, whose encoders meet at five points.

Seichter et al., Efficient RGB-D Semantic Segmentation for Indoor Scene Analysis, ICRA 2021 (arXiv
2011.06961), with the masks of MMANet (Wei et al., CVPR 2023). mmsegmentation supplies the residual
stages, the blocks of the decoder, squeeze-and-excitation and pyramid pooling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from mmseg.models.backbones import ResNet
from mmseg.models.backbones.erfnet import NonBottleneck1d
from mmseg.models.decode_heads.psp_head import PPM
from mmseg.models.utils import SELayer
from torch import Tensor, nn

from benchmark.method import Task
from methods.common.resnet import EXPANSION, resnet, small

BINS = (1, 5)
"""Sides of the grids that the context module pools to."""
BLOCKS = 3
"""Residual blocks of each module of the decoder."""


def conv(inputs: int, outputs: int, kernel: int) -> ConvModule:
    """Returns convolution, BatchNorm, ReLU."""
    return ConvModule(inputs, outputs, kernel, padding=kernel // 2, norm_cfg={'type': 'BN'})


def stage(net: ResNet, depth: int, x: Tensor) -> Tensor:
    """Returns the output of a ResNet's stem (depth 0) or of its stage `depth`."""
    if depth == 0:
        return net.relu(net.norm1(net.conv1(x)))
    return getattr(net, net.res_layers[depth - 1])(net.maxpool(x) if depth == 1 else x)


class Context(nn.Module):
    """Pyramid pooling: (B, C, H, W) -> (B, `outputs`, H, W), which saw the whole image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        part = inputs // len(BINS)
        norm, act = {'type': 'BN'}, {'type': 'ReLU'}
        self.pools = PPM(BINS, inputs, part, None, norm, act, align_corners=False)
        self.join = conv(inputs + part * len(BINS), outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the pooled maps to (B, C, H, W), repeated to the nearest pixel as in ESANet."""
        pooled = [F.interpolate(pool(x), x.shape[2:], mode='nearest') for pool in self.pools]
        return self.join(torch.cat([x, *pooled], 1))


class ESANetEncoder(nn.Module):
    """The mixing encoder: {modality: (B, C, H, W)} and a mask -> the decoder's four maps.

    Every modality has a ResNet. After the stem and each of the four stages all streams are weighed
    by squeeze-and-excitation of their own and added; the sum replaces the stream of the first
    modality, and the others go on as they are. What the mask excludes is zero before each
    squeeze-and-excitation, hence adds nothing there: the first stream too, though it carries the
    sums before, so that without the first modality its ResNet plays no part. ESANet has two
    streams, rgb and depth; more than two are this project's straightforward form of it.

    The maps are the fused ones of the first three stages behind a 1x1 convolution each, of 2, 4 and
    8 `width` channels, and the context module's of 8 `width`.

    Args:
        task: Gives modalities, width, depth and pretrained weights.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names, w = task.names, task.width
        self.streams = nn.ModuleDict({m.name: resnet(m, task, 4) for m in task.modalities})
        fused = [w, *(w * EXPANSION[task.depth] * f for f in (1, 2, 4, 8))]
        gates = ({'type': 'ReLU'}, {'type': 'Sigmoid'})
        self.excitations = nn.ModuleList(
            nn.ModuleDict({name: SELayer(c, ratio=16, act_cfg=gates) for name in self.names})
            for c in fused
        )
        self.skips = nn.ModuleList(
            conv(c, f * w, 1) if c != f * w else nn.Identity()
            for c, f in zip(fused[1:4], (2, 4, 8), strict=True)
        )
        self.context = Context(fused[4], 8 * w)

    def fused(self, inputs: dict[str, Tensor], mask: Tensor) -> list[Tensor]:
        """Returns the sums at the five points, finest first.

        Args:
            inputs: Modality name -> (B, C, H, W); a sensor that is off may be left out.
            mask: (B, M) bool.
        """
        streams = {name: inputs[name] for name in self.names if name in inputs}
        keep = dict(zip(self.names, mask.T[:, :, None, None, None], strict=True))
        sums = []
        for depth, excite in enumerate(self.excitations):
            streams = {name: stage(self.streams[name], depth, x) for name, x in streams.items()}
            shown = {n: torch.where(keep[n], x, x.new_zeros(())) for n, x in streams.items()}
            sums.append(sum(excite[name](x) for name, x in shown.items()))
            if self.names[0] in streams:
                streams[self.names[0]] = sums[-1]
        return sums

    def forward(self, inputs: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """Encodes {modality: (B, C, H, W)} under a mask (B, M) into four maps, finest first."""
        _, *shallow, deepest = self.fused(inputs, mask)
        skips = (reduce(x) for reduce, x in zip(self.skips, shallow, strict=True))
        return (*skips, self.context(deepest))


class Upsample(nn.Module):
    """Upsampling that is learned: the nearest pixel, then a 3x3 convolution of each channel alone.

    It starts as the bilinear one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        row = torch.tensor([0.25, 0.5, 0.25])
        nn.init.zeros_(self.smooth.bias)
        with torch.no_grad():
            self.smooth.weight.copy_(torch.outer(row, row))

    def forward(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        """Resizes (B, C, H, W) to twice its size, or that less one."""
        return self.smooth(F.interpolate(x, size, mode='nearest'))


class DecoderModule(nn.Module):
    """Convolution, residual blocks and upsampling to a skip, which is added.

    Args:
        inputs: Channels that come.
        outputs: Channels of the module and of the skip.
        classes: Number of classes of the side output.
    """

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        blocks = (NonBottleneck1d(outputs) for _ in range(BLOCKS))
        self.refine = nn.Sequential(conv(inputs, outputs, 3), *blocks)
        self.side = nn.Conv2d(outputs, classes, 1)
        self.upsample = Upsample(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the map at the skip's scale, and the one before, for the side output."""
        refined = self.refine(x)
        return self.upsample(refined, skip.shape[2:]) + skip, refined


class ESANetDecoder(nn.Module):
    """ESANet's decoder of `ESANetEncoder`'s maps; logits at the input's resolution.

    Modules of 8, 4 and 2 `width` channels, classification at the finest scale, and two more steps
    of upsampling, one where small images kept their resolution in the stem.

    Args:
        task: Gives width, classes and the size of the images.

    Attributes:
        channels: Channels of the last of `maps`.
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
        """Returns the maps that distillation compares: skips and context as they come."""
        return fused

    def outputs(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns all that the task's loss supervises.

        Returns:
            Logits (B, K, H, W); in training mode also side outputs (B, K, H', W') at 1/32, 1/16
            and 1/8 of the input's resolution, twice that for small images.
        """
        *skips, x = maps
        sides = []
        for module, skip in zip(self.modules_by_scale, reversed(skips), strict=True):
            x, refined = module(x, skip)
            if self.training:
                sides.append(module.side(refined))
        x = self.classify(x)
        for upsample, size in zip(self.grow, self.sizes, strict=True):
            x = upsample(x, size)
        return (x, *sides)

    def logits(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Returns (B, K, H, W) from `maps`."""
        return self.outputs(maps)[0]

    def feature(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Returns what the deepest module puts out, (B, 8 width, H / 16, W / 16)."""
        return self.modules_by_scale[0](maps[-1], maps[-2])[0]

    def forward(self, fused: tuple[Tensor, ...]) -> Tensor:
        """Returns (B, K, H, W) from the encoder's maps."""
        return self.logits(self.maps(fused))
