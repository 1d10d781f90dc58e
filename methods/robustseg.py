"""RobustSeg: content and style of each modality apart, gates per position fuse the contents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.errors import unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import coarsest, fusion_grid
from methods.common.initial import draw_small, layers
from methods.common.losses import total
from methods.common.networks import (
    Encoders,
    Maps,
    SegmentationDecoder,
    decoder,
    fused_channels,
    masked,
)
from methods.common.own_losses import squared_segmentation_loss
from methods.common.resnet import map_sizes
from methods.common.sequences import real_elements
from methods.common.styles import Redrawing, StyleEncoder, style_divergence


def instance_norm(channels: int) -> nn.InstanceNorm2d:
    """Returns an instance normalisation with a weight and a bias, as TensorFlow's."""
    return nn.InstanceNorm2d(channels, eps=1e-6, affine=True)


class GatedFusion(nn.Module):
    """Fuses the maps of M modalities, each weighted by a gate of its own at every position.

        G = sigmoid(conv([f_1; ..; f_M])),  fused = conv_1x1([G_1 f_1; ..; G_M f_M])

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
        official: Whether instance normalisation follows both convolutions, as in the released
            code, and a leaky ReLU the second one.
    """

    def __init__(self, count: int, channels: int, official: bool = False) -> None:
        super().__init__()
        self.gates: nn.Module = nn.Conv2d(count * channels, count, 3, padding=1)
        self.reduce: nn.Module
        if official:
            self.gates = nn.Sequential(self.gates, instance_norm(count))
            reduce = nn.Conv2d(count * channels, channels, 1)
            self.reduce = nn.Sequential(reduce, instance_norm(channels), nn.LeakyReLU(0.2))
        else:
            self.reduce = ConvModule(count * channels, channels, 1, norm_cfg={'type': 'BN'})

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the fused map (B, C, H, W) of M maps of that shape, zero where missing."""
        gates = self.gates(torch.cat(list(maps), 1)).sigmoid().split(1, 1)
        return self.reduce(torch.cat([g * x for g, x in zip(gates, maps, strict=True)], 1))


@METHODS.register_module('robustseg')
class RobustSeg(Method):
    """Feature disentanglement and gated fusion.

    Chen, Dou, Jin, Chen, Qin & Heng, Robust Multimodal Brain Tumor Segmentation via Feature
    Disentanglement and Gated Fusion, MICCAI 2019 (arXiv 2002.09708). Each modality i has an encoder
    of its content, of which maps at all scales are used, and one of its style, a code of 8 numbers.
    The contents, zero where missing, are fused at every scale by gates at every position
    (`GatedFusion`); the fused contents are decoded into the prediction. From the deepest fused
    content and the style of modality i, an image decoder redraws its input x_i, including inputs
    that the mask hides (`Redrawing`), so that the content has to hold what all modalities share:

        L = L_task + reconstruction sum_i mean|x_i - xhat_i| + divergence sum_i KL_i

    with KL_i the `style_divergence` of modality i. Predictions need no style. If the data have
    gaps, both extra terms cover what each sample has; without gaps they are the paper's.

    Adaptations of this project: the paper is about 3-D MRI; the 2-D form and the form for
    classification, in which the one map is the content, are this project's, with the suite's
    encoders and decoder and hence batch normalisation. Vectors and sequences have perceptrons in
    place of convolutions, and a content of one position is normalised over its channels. KL is
    independent of the width.

    The paper's text was not available: the formulas and the weights of 0.1 are those of the
    released code, fa35dda of cchen-cc/Robust-Mseg. Departures from it: that code adds 0.5e-4 times
    the squared norm of the kernels of all encoders and decoders, but not of gates, of fusions and
    of the image decoders' last convolution; here the protocol's weight decay acts on all weights.
    Its task loss is weighted cross-entropy and Dice, which is `loss=own` here
    (`squared_segmentation_loss`). It draws each of four modalities with probability 0.5 and makes
    an empty draw a single modality, so that single ones have the probability 5/64 and all other
    subsets 4/64; here the protocol's sampler is used, and 'bernoulli:0.5' would give 1/15 to each.
    Its convolutions pad by reflection, and its style encoders have twice the channels of its
    content encoders, here as many.

    variant='official' follows the released code in three more points. Gates and fused contents have
    instance normalisation, which for gates comes before the sigmoid, and fused contents a leaky
    ReLU; a scale of one position, where that is undefined, keeps the form of the paper variant. The
    image decoders share their last convolution, where their images have as many channels. And the
    initial weights are those of `draw_small` in convolutions, in the last layer of a classifier and
    in that of a style encoder, and those of `draw_dense` in the other linear layers of style
    encoders and image decoders. The feature pyramid keeps its own: it has no normalisation, which
    makes up for small weights in the released decoder. So do encoders of vectors and sequences and
    what was pretrained. With variant='paper' gates are not normalised, fused contents have batch
    normalisation and ReLU, as everywhere in this project, and the initial weights are those of the
    other methods (`kaiming` in `methods.common.resnet`; in gates, style encoders and image decoders
    PyTorch's default).

    Restyling, KL, the errors of redrawn inputs and `loss=own` have, on equal tensors, the values
    and gradients of the released code. A whole step cannot be compared, since encoders, decoder and
    padding differ as said.

    Args:
        task: What the data set requires.
        reconstruction: Weight of the redrawn inputs' error.
        divergence: Weight of KL.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown.
    """

    task_kinds = KINDS
    official_loss = 'own'
    later = {'variant': 'paper'}
    search = {'reconstruction': LogUniform(0.01, 1), 'divergence': LogUniform(0.01, 1)}

    def __init__(
        self,
        task: Task,
        *,
        reconstruction: float = 0.1,
        divergence: float = 0.1,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of robustseg', variant, ('paper', 'official'))
        self.official = variant == 'official'
        self.weights = {'reconstruction': reconstruction, 'divergence': divergence}
        channels, kernel = fused_channels(task), 1 if fusion_grid(task) == 1 else 3
        self.encoders = Encoders(task)
        self.fusion = nn.ModuleList(
            GatedFusion(len(task.names), c, self.official and p > 1)
            for c, p in zip(channels, self._positions(len(channels)), strict=True)
        )
        self.decoder = decoder(task, channels=channels[0])
        styles, redraw = nn.ModuleDict(), nn.ModuleDict()
        for m in task.modalities:
            styles[m.name] = StyleEncoder(m, task.width)
            redraw[m.name] = Redrawing(m, channels[-1], kernel)
        self.styles, self.redraw = styles, redraw
        if self.official:
            self._share_last()

    def _positions(self, scales: int) -> list[int]:
        """Returns the number of positions of the content at each scale, finest first."""
        if self.task.kind == 'segmentation':
            return [math.prod(size) for size in map_sizes(self.task.modalities[0], scales)]
        return [math.prod(coarsest(self.task))] * scales

    def _share_last(self) -> None:
        """Gives image decoders of as many channels one last convolution."""
        first: dict[int, nn.Module] = {}
        for drawing in self.redraw.values():
            if isinstance(drawing, Redrawing) and isinstance(drawing.last, nn.Conv2d):
                drawing.last = first.setdefault(drawing.shape[0], drawing.last)

    def init_weights(self) -> None:
        """Draws the initial weights of the official variant."""
        super().init_weights()
        if not self.official:
            return
        dense = isinstance(self.decoder, SegmentationDecoder)
        for layer in layers(self, [self.get_submodule('decoder.pyramid')] if dense else []):
            draw_small(layer)
        for part in self.modules():
            if isinstance(part, StyleEncoder | Redrawing):
                part.draw_layers()

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the content maps of each modality."""
        return self.encoders(inputs)

    def content(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Returns the fused contents, one map per scale; mask (B, M) bool."""
        scales = masked(features, mask, self.task.names)
        return tuple(fuse(maps) for fuse, maps in zip(self.fusion, scales, strict=True))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of the fused contents; mask (B, M) bool."""
        return self.decoder(self.content(features, mask))

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `squared_segmentation_loss`; arguments as in `task_loss`."""
        return squared_segmentation_loss(logits, target)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and the weighted loss_reconstruction and loss_divergence."""
        content = self.content(self.encode(batch.inputs), batch.mask)
        errors, divergences = [], []
        for column, modality in enumerate(self.task.modalities):
            x, there = batch.inputs[modality.name], batch.available[:, column]
            # Absent inputs and padded frames may hold any value.
            real = real_elements(modality, x) & there.view(-1, *[1] * (x.ndim - 1))
            x = torch.where(real, x, 0.0)
            again, *style = self.redraw[modality.name](content[-1], self.styles[modality.name](x))
            error = torch.where(real, (again - x).float().abs(), 0.0).flatten(1).sum(1)
            error = error / real.flatten(1).sum(1).clamp_min(1)
            count = there.sum().clamp_min(1)
            errors.append(error.sum() / count)
            divergences.append(torch.where(there, style_divergence(*style), 0.0).sum() / count)
        return {
            'loss_task': self.task_loss(self.decoder(content), batch.target),
            'loss_reconstruction': self.weights['reconstruction'] * total(errors),
            'loss_divergence': self.weights['divergence'] * total(divergences),
        }
