"""The networks that all methods share, so that a table compares methods and not backbones.

They follow the papers' CASIA-SURF network (ResNet-18: stem and two stages per modality,
squeeze-and-excitation, concatenation, two shared stages, linear head), and for segmentation a
ResNet-18 per modality fused at four scales into a feature pyramid, or ESANet where the task asks
for it. `Task.width` scales them: 64 is the papers' size; `Task.depth` and `Task.pretrained` rule
over the encoders alone. mmsegmentation supplies the stages, the pyramid and its head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from mmseg.models.backbones.resnet import BasicBlock
from mmseg.models.decode_heads import FPNHead
from mmseg.models.necks import FPN
from mmseg.models.utils import ResLayer, SELayer
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.esanet import ESANetDecoder, ESANetEncoder
from methods.common.resnet import EXPANSION, resnet, stride
from methods.common.sequences import SequenceEncoder

Maps = tuple[Tensor, ...]
"""Feature maps (B, C, H, W) of one modality or of the fusion, one per scale, finest first."""


class ImageEncoder(nn.Module):
    """Classification encoder of an image: (B, C, H, W) -> one map of `fused_channels`.

    Args:
        modality: Gives the image's shape.
        task: Gives the size, and whether the map keeps its stride of 4 or 8 (`fusion_grid`).
    """

    def __init__(self, modality: Modality, task: Task) -> None:
        super().__init__()
        self.stages = resnet(modality, task, 2)
        (channels,) = fused_channels(task)
        gates = ({'type': 'ReLU'}, {'type': 'Sigmoid'})
        self.excite = SELayer(channels, ratio=min(16, task.width), act_cfg=gates)
        self.grid = fusion_grid(task)

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, C, H, W)."""
        y = self.excite(self.stages(x)[-1])
        return (y if self.grid is None else F.adaptive_avg_pool2d(y, self.grid),)


class VectorEncoder(nn.Module):
    """Encoder of a vector: (B, D) -> one 1x1 map of 2 `width` channels."""

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        hidden = 2 * width
        self.layers = nn.Sequential(
            nn.Linear(modality.shape[0], hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, D)."""
        return (self.layers(x)[:, :, None, None],)


class PyramidEncoder(nn.Module):
    """Segmentation encoder: (B, C, H, W) -> four maps of `fused_channels`."""

    def __init__(self, modality: Modality, task: Task) -> None:
        super().__init__()
        self.stages = resnet(modality, task, 4)

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, C, H, W)."""
        return self.stages(x)


def fusion_grid(task: Task) -> int | None:
    """Returns the side to which all encoders' maps are pooled before fusion, None for as is.

    Vectors and sequences meet images at 1x1; images of different sizes at the smallest map among
    them.
    """
    if any(m.kind != 'image' for m in task.modalities):
        return 1
    if len({m.shape[1:] for m in task.modalities}) == 1:
        return None
    return min(-(-side // stride(m, 2)) for m in task.modalities for side in m.shape[1:])


class Encoders(nn.ModuleDict):
    """The task's encoders by modality name; encodes those modalities that are given.

    ESANet encodes while it fuses: there the inputs pass as they are, to `ESANetEncoder`.
    """

    def __init__(self, task: Task) -> None:
        super().__init__({m.name: self._encoder(m, task) for m in task.modalities})

    @staticmethod
    def _encoder(modality: Modality, task: Task) -> nn.Module:
        if task.network == 'esanet':
            return nn.Identity()
        if task.kind == 'segmentation':
            return PyramidEncoder(modality, task)
        if modality.kind == 'image':
            return ImageEncoder(modality, task)
        kind = VectorEncoder if modality.kind == 'vector' else SequenceEncoder
        return kind(modality, fused_channels(task)[0] // 2)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return {name: self[name](x) for name, x in inputs.items()}


def fused_channels(task: Task) -> tuple[int, ...]:
    """Channels of one modality's maps, per scale."""
    stages = (1, 2, 4, 8) if task.kind == 'segmentation' else (2,)
    # An unknown depth is told by `resnet`, in one line.
    return tuple(task.width * EXPANSION.get(task.depth, 1) * f for f in stages)


def masked(features: dict[str, Maps], mask: Tensor, names: tuple[str, ...]) -> list[list[Tensor]]:
    """Zeroes the maps of missing modalities.

    A selection, not a product: what is missing may hold NaN. A modality that was not encoded at
    all (its sensor is off) counts as zeros.

    Args:
        features: Modality name -> maps.
        mask: (B, M) bool in the order of `names`.
        names: The task's modalities.

    Returns:
        Per scale, the M modalities' maps.
    """
    scales = range(len(next(iter(features.values()))))
    keep = mask[:, :, None, None, None]

    def one(name: str, column: int, scale: int) -> Tensor:
        if name not in features:
            return torch.zeros_like(next(iter(features.values()))[scale])
        x = features[name][scale]
        return torch.where(keep[:, column], x, x.new_zeros(()))

    return [[one(name, m, s) for m, name in enumerate(names)] for s in scales]


class ConcatFusion(nn.Module):
    """Fusion by concatenation of the masked maps, reduced by a 1x1 convolution in segmentation.

    Args:
        task: Gives modalities and channels.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = task.names
        count = len(self.names)
        self.reduce = nn.ModuleList(
            ConvModule(count * c, c, 1, norm_cfg={'type': 'BN'})
            for c in fused_channels(task)
            if task.kind == 'segmentation'
        )

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Fuses {modality: maps} under a mask (B, M) into one map per scale."""
        joined = [torch.cat(maps, 1) for maps in masked(features, mask, self.names)]
        if not self.reduce:
            return tuple(joined)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))


class ClassificationDecoder(nn.Module):
    """The shared trunk and head: fused map -> two residual stages -> average -> logits (B, K).

    Args:
        task: Gives width and classes.
        channels: Channels of the fused map; None for the concatenation of all modalities.

    Attributes:
        channels: Channels of the last of `maps`.
    """

    def __init__(self, task: Task, channels: int | None = None) -> None:
        super().__init__()
        w = task.width
        self.channels = 8 * w
        channels = channels or fused_channels(task)[0] * len(task.modalities)
        if fusion_grid(task) == 1:
            self.trunk = nn.Sequential(
                ConvModule(channels, 4 * w, 1, norm_cfg={'type': 'BN'}),
                ConvModule(4 * w, 8 * w, 1, norm_cfg={'type': 'BN'}),
            )
        else:
            self.trunk = nn.Sequential(
                ResLayer(BasicBlock, channels, 4 * w, 2, stride=2),
                ResLayer(BasicBlock, 4 * w, 8 * w, 2, stride=2),
            )
        self.head = nn.Linear(8 * w, len(task.classes))

    def maps(self, fused: Maps) -> Maps:
        """Returns the last feature map before pooling, (B, 8 width, H, W), as the only scale."""
        return (self.trunk(fused[0]),)

    def logits(self, maps: Maps) -> Tensor:
        """Returns (B, K) from `maps`."""
        return self.head(maps[-1].mean((2, 3)))

    def outputs(self, maps: Maps) -> tuple[Tensor, ...]:
        """Returns the logits (B, K), all that the task's loss supervises."""
        return (self.logits(maps),)

    def forward(self, fused: Maps) -> Tensor:
        """Returns (B, K) from the fused map."""
        return self.logits(self.maps(fused))


class SegmentationDecoder(nn.Module):
    """Feature pyramid over the fused scales and its head; logits at the input's resolution.

    Attributes:
        channels: Channels of the last of `maps`.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        w, channels = task.width, fused_channels(task)
        self.channels = channels[-1]
        self.size = task.modalities[0].shape[1:]
        self.pyramid = FPN(list(channels), 2 * w, num_outs=4)
        self.head = FPNHead(
            in_channels=[2 * w] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=2 * w,
            dropout_ratio=0,
            num_classes=len(task.classes),
            out_channels=len(task.classes),  # or two classes make it warn
            norm_cfg={'type': 'BN'},
            align_corners=False,
            # Never used: the methods compute their losses.
            loss_decode={'type': 'CrossEntropyLoss', 'avg_non_ignore': True},
        )

    def maps(self, fused: Maps) -> Maps:
        """Returns the fused maps that distillation compares: all scales as they come."""
        return fused

    def logits(self, maps: Maps) -> Tensor:
        """Returns (B, K, H, W) from `maps`."""
        y = self.head(self.pyramid(maps))
        return F.interpolate(y, self.size, mode='bilinear', align_corners=False)

    def outputs(self, maps: Maps) -> tuple[Tensor, ...]:
        """Returns the logits (B, K, H, W), all that the task's loss supervises."""
        return (self.logits(maps),)

    def feature(self, maps: Maps) -> Tensor:
        """Returns the second deepest map of the pyramid, (B, 2 width, H / 16, W / 16)."""
        return self.pyramid(maps)[-2]

    def forward(self, fused: Maps) -> Tensor:
        """Returns (B, K, H, W) from the fused maps."""
        return self.logits(self.maps(fused))


def fusion(task: Task) -> ConcatFusion | ESANetEncoder:
    """Returns what turns `Encoders`' features, under a mask, into what the decoder takes."""
    return ESANetEncoder(task) if task.network == 'esanet' else ConcatFusion(task)


def decoder(
    task: Task, channels: int | None = None
) -> ClassificationDecoder | SegmentationDecoder | ESANetDecoder:
    """Returns the task's decoder.

    Args:
        task: Gives kind, width and classes.
        channels: Channels of the fused map in classification; None for `ConcatFusion`'s. In
            segmentation a fused map always has the channels of one modality's.
    """
    if task.network == 'esanet':
        return ESANetDecoder(task)
    if task.kind == 'segmentation':
        return SegmentationDecoder(task)
    return ClassificationDecoder(task, channels)
