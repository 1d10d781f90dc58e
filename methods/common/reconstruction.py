"""Networks that give back what was encoded: image and vector decoders, layers of auto-encoders."""

import itertools
import math

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from torch import nn


def layers(widths, activation):
    """Returns 1x1 convolutions through `widths`, with activations between them."""
    stack = []
    for inputs, outputs in itertools.pairwise(widths):
        stack += [nn.Conv2d(inputs, outputs, 1), activation()]
        # Random biases outweigh the signal in so long a chain and switch ReLUs off for good.
        nn.init.zeros_(stack[-2].bias)
    return stack[:-1]


class ImageDecoder(nn.Module):
    """Decodes an image from the latent maps: from the deepest upwards, each joined in turn.

    Beyond the finest latent map the channels halve with every step to the image's resolution.

    Args:
        channels: Channels of the latent maps, finest scale first.
        shape: (C, H, W) of the image.
    """

    def __init__(self, channels, shape):
        super().__init__()
        steps = 2 if len(channels) > 1 else 3
        self.sizes = [tuple(-(-side // 2**k) for side in shape[1:]) for k in reversed(range(steps))]
        widths = [max(channels[0] >> k, 1) for k in range(steps + 1)]
        finer_and_deeper = reversed(list(itertools.pairwise(channels)))
        self.join = nn.ModuleList(self._block(c + deeper, c) for c, deeper in finer_and_deeper)
        self.grow = nn.ModuleList(self._block(i, o) for i, o in itertools.pairwise(widths))
        self.image = nn.Conv2d(widths[-1], shape[0], 1)

    @staticmethod
    def _block(inputs, outputs):
        return ConvModule(inputs, outputs, 3, padding=1, norm_cfg={'type': 'BN'})

    def forward(self, latents):
        """Returns (B, C, H, W) from the latent maps, finest scale first."""
        x, *skips = reversed(latents)
        for block, skip in zip(self.join, skips, strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        for block, size in zip(self.grow, self.sizes, strict=True):
            x = block(F.interpolate(x, size))
        return self.image(x)


class VectorDecoder(nn.Sequential):
    """Decodes a vector (D,) or a sequence (T, D) from a latent map of one pixel."""

    def __init__(self, channels, shape):
        (c,), d = channels, math.prod(shape)
        super().__init__(nn.Linear(c, c), nn.BatchNorm1d(c), nn.ReLU(), nn.Linear(c, d))
        self.shape = shape

    def forward(self, latents):
        """Returns (B, *shape) from the latent maps, of which there is one."""
        return super().forward(latents[0].flatten(1)).unflatten(1, self.shape)
