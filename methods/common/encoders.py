"""Encoders of one image or vector; `methods.common.sequences` has that of a sequence."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from mmseg.models.utils import SELayer
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.backbones import Backbone
from methods.common.resnet import EXPANSION, map_sizes, resnet, stride

Maps = tuple[Tensor, ...]
"""Feature maps (B, C, H, W) of one modality, or fused ones, one per scale, finest first."""

VOLUME_STRIDE = 8
"""Stride of the coarsest map of volumes."""

DROPOUT = 0.5
"""Share of the features of a vector's wide layer that training sets to zero."""


def fused_channels(task: Task) -> tuple[int, ...]:
    """Returns the number of channels of one modality's maps, per scale, finest first."""
    stages = (1, 2, 4, 8) if task.kind == 'segmentation' else (2,)
    # An unsupported depth is reported by `resnet`; a KeyError here would come first.
    return tuple(task.width * EXPANSION.get(task.depth, 1) * f for f in stages)


def fusion_grid(task: Task) -> int | None:
    """Returns the side to which all maps are pooled before they are fused in classification.

    If vectors or sequences are among the modalities, all maps are pooled to 1x1. Images of
    different sizes are pooled to the shortest side among their maps. Images of one size are not
    pooled, which None stands for.
    """
    if any(m.kind != 'image' for m in task.modalities):
        return 1
    if len({m.shape[1:] for m in task.modalities}) == 1:
        return None
    return min(-(-side // stride(m, 2)) for m in task.modalities for side in m.shape[1:])


def stages(modality: Modality, task: Task, count: int, stem: int = 7) -> nn.Module:
    """Returns what encodes an image into a map per stage: the task's ResNet, or its backbone.

    Args:
        modality: Gives the image's shape.
        task: Gives width, depth, pretrained weights and the name of the backbone.
        count: Number of stages, 2 for classification, of which the last is used, or 4.
        stem: Side of the first convolution's kernel of a ResNet.
    """
    if not task.backbone:
        return resnet(modality, task, count, stem)
    sizes = map_sizes(modality, count)
    return Backbone(modality, task, fused_channels(task), sizes[-len(fused_channels(task)) :])


def coarsest(task: Task) -> tuple[int, ...]:
    """Returns height and width of the encoders' coarsest map, after the depth in volumes."""
    if task.volumes:
        return tuple(side // VOLUME_STRIDE for side in task.modalities[0].shape[1:])
    grid = fusion_grid(task)
    if task.kind != 'segmentation' and grid:
        return grid, grid
    first, stages = task.modalities[0], 4 if task.kind == 'segmentation' else 2
    height, width = (-(-side // stride(first, stages)) for side in first.shape[1:])
    return height, width


class ImageEncoder(nn.Module):
    """Classification encoder of an image: (B, C, H, W) -> one map of `fused_channels`.

    The first convolution is 3x3, as in MMANet's face network, or 7x7 where pretrained weights of a
    usual ResNet are loaded.

    Args:
        modality: Gives the image's shape.
        task: Gives width, depth and pretrained weights, and whether maps are pooled to a common
            size (`fusion_grid`).
    """

    def __init__(self, modality: Modality, task: Task) -> None:
        super().__init__()
        self.stages = stages(modality, task, 2, stem=7 if task.pretrained else 3)
        (channels,) = fused_channels(task)
        gates = ({'type': 'ReLU'}, {'type': 'Sigmoid'})
        self.excite = SELayer(channels, ratio=min(16, task.width), act_cfg=gates)
        # mmcv draws weights for ReLU; the released gates keep PyTorch's.
        for layer in (self.excite.conv1, self.excite.conv2):
            layer.conv.reset_parameters()
        self.grid = fusion_grid(task)

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, C, H, W) into one map."""
        y = self.excite(self.stages(x)[-1])
        return (y if self.grid is None else F.adaptive_avg_pool2d(y, self.grid),)


class VectorEncoder(nn.Module):
    """Encoder of a vector: (B, D) -> one 1x1 map of 2 `width` channels.

    A wide layer with dropout (Srivastava et al., JMLR 2014), then a narrow one, both with batch
    normalisation. Without dropout a few hundred vectors are learnt by heart, and logistic
    regression is several points better; with dropout in narrow layers too little is learnt of
    vectors whose classes no hyperplane separates (`tools/logistic.py`).

    Args:
        modality: Gives D.
        width: Half of the number of output channels.
    """

    def __init__(self, modality: Modality, width: int) -> None:
        super().__init__()
        wide, narrow = 8 * width, 2 * width
        self.layers = nn.Sequential(
            nn.Linear(modality.shape[0], wide),
            nn.BatchNorm1d(wide),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(wide, narrow),
            nn.BatchNorm1d(narrow),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, D) into one map (B, 2 width, 1, 1)."""
        return (self.layers(x)[:, :, None, None],)


class PyramidEncoder(nn.Module):
    """Segmentation encoder of an image: (B, C, H, W) -> four maps of `fused_channels`.

    Args:
        modality: Gives the image's shape.
        task: Gives width, depth and pretrained weights.
    """

    def __init__(self, modality: Modality, task: Task) -> None:
        super().__init__()
        self.stages = stages(modality, task, 4)

    def forward(self, x: Tensor) -> Maps:
        """Encodes (B, C, H, W) into four maps, with strides 4 to 32, or 2 to 16 if small."""
        return self.stages(x)
