"""RobustSeg: content and style of each modality apart, gates per position fuse the contents."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.method import KINDS, Batch, Method, Modality, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.encoders import fusion_grid
from methods.common.losses import total
from methods.common.networks import Encoders, Maps, decoder, fused_channels, masked
from methods.common.own_losses import squared_segmentation_loss
from methods.common.sequences import real_elements

STYLE = 8
"""Numbers in the style code of a modality."""
SIZE = 128
"""Channels of the paper's styles; KL is this number times the mean over channels."""


class GatedFusion(nn.Module):
    """Fuses the maps of M modalities, each weighted by a gate of its own at every position.

        G = sigmoid(conv([f_1; ..; f_M])),  fused = conv_1x1([G_1 f_1; ..; G_M f_M])

    Args:
        count: Number of modalities M.
        channels: Channels C of one modality's map.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(count * channels, count, 3, padding=1)
        self.reduce = ConvModule(count * channels, channels, 1, norm_cfg={'type': 'BN'})

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the fused map (B, C, H, W) of M maps of that shape, zero where missing."""
        gates = self.gates(torch.cat(list(maps), 1)).sigmoid().split(1, 1)
        return self.reduce(torch.cat([g * x for g, x in zip(gates, maps, strict=True)], 1))


class StyleEncoder(nn.Sequential):
    """Encodes the style of a modality: (B, *shape) -> (B, 8).

    Images pass five convolutions, whose outputs are averaged over positions; vectors and sequences
    pass a perceptron. Nothing is normalised, since the statistics of an input are its style.

    Args:
        modality: Gives kind and shape.
        width: Channels of the first layer.
    """

    def __init__(self, modality: Modality, width: int) -> None:
        layers: list[nn.Module]
        if modality.kind == 'image':
            layers = [nn.Conv2d(modality.shape[0], width, 7, padding=3), nn.ReLU()]
            for inputs, outputs in ((1, 2), (2, 4), (4, 4), (4, 4)):
                # With padding 2 a side of one pixel remains one.
                conv = nn.Conv2d(inputs * width, outputs * width, 4, stride=2, padding=2)
                layers += [conv, nn.ReLU()]
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        else:
            inputs = math.prod(modality.shape)
            layers = [nn.Flatten(), nn.Linear(inputs, 4 * width), nn.ReLU()]
        super().__init__(*layers, nn.Linear(4 * width, STYLE))


def restyle(content: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Adaptive instance normalisation (Huang & Belongie, ICCV 2017).

    Args:
        content: (B, C, H, W), normalised over positions, or over channels if there is one position.
        scale: (B, C).
        shift: (B, C).
    """
    axes = (2, 3) if content.shape[2] * content.shape[3] > 1 else (1,)
    variance, mean = torch.var_mean(content, axes, correction=0, keepdim=True)
    normal = (content - mean) * (variance + 1e-5).rsqrt()
    return scale[:, :, None, None] * normal + shift[:, :, None, None]


class Redrawing(nn.Module):
    """Redraws a modality's input from the fused content and the style of that input.

    Four residual blocks with `restyle` at the resolution of the content, then, for images, three
    steps of upsampling, convolution and layer normalisation; vectors and sequences are a linear
    function of the content.

    Args:
        modality: Gives kind and shape.
        channels: Channels C of the content.
        kernel: Side of the blocks' kernels, 1 for a content of one position.
    """

    def __init__(self, modality: Modality, channels: int, kernel: int) -> None:
        super().__init__()
        c, self.shape = channels, modality.shape
        self.perceptron = nn.Sequential(
            nn.Linear(STYLE, c), nn.ReLU(), nn.Linear(c, c), nn.ReLU(), nn.Linear(c, 2 * c)
        )
        # Restyling removes what a bias adds.
        self.blocks = nn.ModuleList(
            nn.Conv2d(c, c, kernel, padding=kernel // 2, bias=False) for _ in range(8)
        )
        self.grow = nn.ModuleList()
        self.last: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(c, math.prod(self.shape)))
        if modality.kind == 'image':
            widths = [max(c >> k, 1) for k in range(4)]
            for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
                conv = nn.Conv2d(inputs, outputs, 5, padding=2)
                self.grow.append(nn.Sequential(conv, nn.GroupNorm(1, outputs), nn.ReLU()))
            self.last = nn.Conv2d(widths[-1], self.shape[0], 7, padding=3)

    def forward(self, content: Tensor, style: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Redraws an input.

        Args:
            content: (B, C, H, W).
            style: (B, 8).

        Returns:
            The input, (B, *shape), and the scale and shift (B, C) of the restyling, in float32.
        """
        scale, shift = self.perceptron(style).float().chunk(2, 1)
        x = content
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = x + restyle(second(restyle(first(x), scale, shift).relu()), scale, shift)
        for k, step in enumerate(self.grow):
            size = [-(-side // 2 ** (2 - k)) for side in self.shape[1:]]
            x = step(F.interpolate(x, size))
        return self.last(x).view(-1, *self.shape), scale, shift


def style_divergence(scale: Tensor, shift: Tensor) -> Tensor:
    """Returns KL(N(scale, shift^2) || N(0, 1)), summed over 128 channels as 128 times the mean.

    The released code takes the two parameters of the restyling for a mean and a deviation.

    Args:
        scale: (B, C).
        shift: (B, C).

    Returns:
        (B,).
    """
    variance = shift.square()
    # The guard bounds the logarithm of a shift of 0.
    elements = scale.square() + variance - 1 - (variance + 1e-7).log()
    return 0.5 * SIZE * elements.mean(1)


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
    Its gates are normalised over the positions of a sample before the sigmoid; here they are not,
    since in classification there is one position. Its convolutions pad by reflection and its fused
    contents have instance normalisation and a leaky ReLU. All its image decoders share their last
    convolution; here each has its own.

    Its initial weights are normal with the deviation 0.01, cut off at 0.02, in all convolutions,
    and have the variance 2 / fan_in in the perceptrons. Here gates, style encoders and image
    decoders begin with PyTorch's default, which is uniform with the variance 1 / (3 fan_in), and
    content encoders, reductions and the decoder, but for its head, with N(0, 2 / fan_out).

    Restyling, KL, the errors of redrawn inputs and `loss=own` have, on equal tensors, the values
    and gradients of the released code. A whole step cannot be compared, since gates, norms and
    padding differ as said.

    Args:
        task: What the data set requires.
        reconstruction: Weight of the redrawn inputs' error.
        divergence: Weight of KL.
    """

    task_kinds = KINDS
    search = {'reconstruction': LogUniform(0.01, 1), 'divergence': LogUniform(0.01, 1)}

    def __init__(self, task: Task, *, reconstruction: float = 0.1, divergence: float = 0.1) -> None:
        super().__init__(task)
        self.weights = {'reconstruction': reconstruction, 'divergence': divergence}
        channels, kernel = fused_channels(task), 1 if fusion_grid(task) == 1 else 3
        self.encoders = Encoders(task)
        self.fusion = nn.ModuleList(GatedFusion(len(task.names), c) for c in channels)
        self.decoder = decoder(task, channels=channels[0])
        styles, redraw = nn.ModuleDict(), nn.ModuleDict()
        for m in task.modalities:
            styles[m.name] = StyleEncoder(m, task.width)
            redraw[m.name] = Redrawing(m, channels[-1], kernel)
        self.styles, self.redraw = styles, redraw

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
