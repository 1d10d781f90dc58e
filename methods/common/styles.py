"""RobustSeg's networks of style: encoders of a modality's style, and the redrawing of its input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.method import Modality
from methods.common.initial import draw_dense, draw_small

STYLE = 8
"""Numbers in the style code of a modality."""
SIZE = 128
"""Channels of the paper's styles; KL is this number times the mean over channels."""


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

    def draw_layers(self) -> None:
        """Draws the initial weights of the linear layers as the released code does."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                # The last layer is a convolution of one voxel there.
                (draw_small if layer is self[-1] else draw_dense)(layer)


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

    def draw_layers(self) -> None:
        """Draws the initial weights of the linear layers as the released code does."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                draw_dense(layer)

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
