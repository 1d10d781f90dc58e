"""Networks that all methods share, so that a table compares methods rather than backbones.

Classification follows the CASIA-SURF network of MMANet's paper: for each modality the stem and two
stages of a ResNet-18 and squeeze-and-excitation, then concatenation, two shared stages and a linear
head. Segmentation has a ResNet-18 per modality and a feature pyramid over maps fused at four
scales, or ESANet if the task names it; volumes have the network of `methods.common.unet3d`.
`Task.width` scales all networks, 64 being the papers' size, and 16 in volumes. `Task.depth` and
`Task.pretrained` affect the encoders of images only. The residual stages, the pyramid and its head
are those of mmsegmentation.
"""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from mmseg.models.backbones.resnet import BasicBlock
from mmseg.models.necks import FPN
from mmseg.models.utils import ResLayer
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.encoders import (
    ImageEncoder,
    Maps,
    PyramidEncoder,
    VectorEncoder,
    fused_channels,
    fusion_grid,
)
from methods.common.esanet import ESANetDecoder, ESANetEncoder
from methods.common.resize import PyramidHead, bilinear
from methods.common.resnet import kaiming
from methods.common.sequences import SequenceEncoder
from methods.common.sharing import share
from methods.common.unet3d import VolumeDecoder, VolumeEncoder, VolumeFusion


class Encoders(nn.ModuleDict):
    """The task's encoders by modality name; only the modalities that are given are encoded.

    ESANet encodes while it fuses. There these encoders return the inputs unchanged, and
    `ESANetEncoder`, which `fusion` returns, encodes them.

    Args:
        task: Gives modalities, kind and network, and whether like modalities share an encoder
            (`methods.common.sharing`).
    """

    def __init__(self, task: Task) -> None:
        super().__init__({m.name: self._encoder(m, task) for m in task.modalities})
        if task.share_encoders:
            share(dict(self.items()), task.modalities)

    @staticmethod
    def _encoder(modality: Modality, task: Task) -> nn.Module:
        if task.network == 'esanet':
            return nn.Identity()
        if modality.kind == 'volume':
            return VolumeEncoder(modality, task)
        if task.kind == 'segmentation':
            return PyramidEncoder(modality, task)
        if modality.kind == 'image':
            return ImageEncoder(modality, task)
        kind = VectorEncoder if modality.kind == 'vector' else SequenceEncoder
        return kind(modality, fused_channels(task)[0] // 2)

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Encodes {modality: (B, *shape)} into {modality: maps}."""
        return {name: self[name](x) for name, x in inputs.items()}


def masked(features: dict[str, Maps], mask: Tensor, names: tuple[str, ...]) -> list[list[Tensor]]:
    """Sets the maps of missing modalities to zero.

    Args:
        features: Modality name -> maps. A modality may be left out (its sensor is off); its maps
            are then zero.
        mask: (B, M) bool, its columns in the order of `names`.
        names: The names of the task's M modalities.

    Returns:
        For each scale, the list of the M modalities' maps.
    """
    scales = range(len(next(iter(features.values()))))

    def one(name: str, column: int, scale: int) -> Tensor:
        if name not in features:
            return torch.zeros_like(next(iter(features.values()))[scale])
        x = features[name][scale]
        # A selection, not a product: missing modalities may hold NaN, and 0 times NaN is NaN.
        keep = mask[:, column].view(-1, *[1] * (x.ndim - 1))
        return torch.where(keep, x, x.new_zeros(()))

    return [[one(name, m, s) for m, name in enumerate(names)] for s in scales]


class ConcatFusion(nn.Module):
    """Fusion by concatenation of the masked maps.

    In classification the fused map has the channels of all modalities together. In segmentation a
    1x1 convolution at every scale reduces them to those of one modality.

    Args:
        task: Gives modalities and channels.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.names = task.names
        count = len(self.names)
        self.reduce: nn.ModuleList | VolumeFusion
        if task.volumes:
            self.reduce = VolumeFusion(task)
            return
        self.reduce = nn.ModuleList(
            ConvModule(count * c, c, 1, norm_cfg={'type': 'BN'})
            for c in fused_channels(task)
            if task.kind == 'segmentation'
        )

    def forward(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Fuses the maps of the modalities that a mask allows.

        Args:
            features: Modality name -> maps.
            mask: (B, M) bool.

        Returns:
            One map per scale.
        """
        scales = masked(features, mask, self.names)
        if isinstance(self.reduce, VolumeFusion):
            return self.reduce(scales)
        joined = [torch.cat(maps, 1) for maps in scales]
        if not self.reduce:
            return tuple(joined)
        return tuple(reduce(x) for reduce, x in zip(self.reduce, joined, strict=True))


class ClassificationDecoder(nn.Module):
    """Classification decoder: fused map -> two residual stages -> average pooling -> logits.

    For fused maps of one pixel, 1x1 convolutions replace the residual stages.

    Args:
        task: Gives width and classes.
        channels: Channels of the fused map; None for those of `ConcatFusion`.

    Attributes:
        channels: Channels of the deepest of `maps`.
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
            stages = (
                ResLayer(BasicBlock, channels, 4 * w, 2, stride=2),
                ResLayer(BasicBlock, 4 * w, 8 * w, 2, stride=2),
            )
            self.trunk = kaiming(nn.Sequential(*stages))
        self.head = nn.Linear(8 * w, len(task.classes))

    def maps(self, fused: Maps) -> Maps:
        """Returns the last feature map before pooling, (B, 8 width, H, W), as the only scale."""
        return (self.trunk(fused[0]),)

    def stages(self, fused: Maps) -> Maps:
        """Returns the feature maps of both stages, (B, 4 width, ..) and (B, 8 width, H, W)."""
        first = self.trunk[0](fused[0])
        return first, self.trunk[1](first)

    def logits(self, maps: Maps) -> Tensor:
        """Returns logits (B, K) from `maps`."""
        return self.head(maps[-1].mean((2, 3)))

    def outputs(self, maps: Maps) -> tuple[Tensor, ...]:
        """Returns all logits that the task's loss supervises: one tensor (B, K)."""
        return (self.logits(maps),)

    def forward(self, fused: Maps) -> Tensor:
        """Returns logits (B, K) from the fused map."""
        return self.logits(self.maps(fused))


class SegmentationDecoder(nn.Module):
    """Segmentation decoder: feature pyramid over four fused maps and a head.

    Args:
        task: Gives width, classes and the size of the images.

    Attributes:
        channels: Channels of the deepest of `maps`.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        w, channels = task.width, fused_channels(task)
        self.channels = channels[-1]
        self.size = task.modalities[0].shape[1:]
        self.pyramid = FPN(list(channels), 2 * w, num_outs=4)
        self.head = PyramidHead(
            in_channels=[2 * w] * 4,
            in_index=[0, 1, 2, 3],
            feature_strides=[4, 8, 16, 32],
            channels=2 * w,
            dropout_ratio=0,
            num_classes=len(task.classes),
            # Given explicitly, because mmsegmentation warns for two classes otherwise.
            out_channels=len(task.classes),
            norm_cfg={'type': 'BN'},
            align_corners=False,
            # mmsegmentation requires a loss here; it is never used, methods compute their own.
            loss_decode={'type': 'CrossEntropyLoss', 'avg_non_ignore': True},
        )

    def maps(self, fused: Maps) -> Maps:
        """Returns the maps that distillation compares: the fused maps of all scales, unchanged."""
        return fused

    def logits(self, maps: Maps) -> Tensor:
        """Returns logits (B, K, H, W), at the resolution of the images, from `maps`."""
        y = self.head(self.pyramid(maps))
        return bilinear(y, self.size)

    def outputs(self, maps: Maps) -> tuple[Tensor, ...]:
        """Returns all logits that the task's loss supervises: one tensor (B, K, H, W)."""
        return (self.logits(maps),)

    def feature(self, maps: Maps) -> Tensor:
        """Returns the second deepest map of the pyramid, (B, 2 width, H / 16, W / 16)."""
        return self.pyramid(maps)[-2]

    def forward(self, fused: Maps) -> Tensor:
        """Returns logits (B, K, H, W) from the fused maps."""
        return self.logits(self.maps(fused))


Decoder = ClassificationDecoder | SegmentationDecoder | ESANetDecoder | VolumeDecoder
"""What `decoder` returns: `maps`, `logits` and `outputs` are common to all four."""


def fusion(task: Task) -> nn.Module:
    """Returns the module that fuses the features of `Encoders`, under a mask, for the decoder."""
    return ESANetEncoder(task) if task.network == 'esanet' else ConcatFusion(task)


def decoder(task: Task, channels: int | None = None) -> Decoder:
    """Returns the task's decoder.

    Args:
        task: Gives kind, network, width, classes and the size of the images.
        channels: Channels of the fused map in classification; None for those of `ConcatFusion`. In
            segmentation it has no effect: a fused map has as many channels as one modality's.
    """
    if task.network == 'esanet':
        return ESANetDecoder(task)
    if task.volumes:
        return VolumeDecoder(task)
    if task.kind == 'segmentation':
        return SegmentationDecoder(task)
    return ClassificationDecoder(task, channels)
