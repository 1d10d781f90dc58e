"""Networks that reconstruct inputs or features from feature maps."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.method import Task
from methods.common.networks import Maps, SegmentationDecoder, fused_channels
from methods.common.regions import conv
from methods.common.unet3d import VolumeDecoder


def layers(widths: Sequence[int], activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """Returns 1x1 convolutions with activations between them.

    Args:
        widths: Channels before the first convolution and after each one.
        activation: Builds an activation.

    Returns:
        2 n - 1 modules for n convolutions; no activation follows the last one.
    """
    stack: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        stack += [kaiming_fan_in(nn.Conv2d(inputs, outputs, 1)), activation()]
    return stack[:-1]


def kaiming_fan_in(convolution: nn.Conv2d) -> nn.Conv2d:
    """Returns a convolution with Kaiming-normal weights of its inputs (fan_in) and no bias.

    The released code of MMIN (Zhao et al., ACL 2021), on which that of RedCore (Sun et al., AAAI
    2024) is built, initialises all its layers in this way, linear ones too.
    """
    nn.init.kaiming_normal_(convolution.weight)
    # In a long chain random biases would outweigh the signal and switch ReLUs off permanently.
    nn.init.zeros_(convolution.get_parameter('bias'))
    return convolution


class ImageDecoder(nn.Module):
    """Reconstructs an image from latent maps.

    It starts at the deepest latent map, upsamples and joins each finer one in turn. Beyond the
    finest latent map the number of channels halves with every step to the image's resolution.

    Args:
        channels: Channels of the latent maps, finest scale first.
        shape: Shape (C, H, W) of the image, or (C, D, H, W) of a volume, whose finest latent map
            has its resolution.
    """

    def __init__(self, channels: Sequence[int], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.flat = len(shape) == 3
        steps = (2 if len(channels) > 1 else 3) if self.flat else 0
        self.sizes = [tuple(-(-side // 2**k) for side in shape[1:]) for k in reversed(range(steps))]
        widths = [max(channels[0] >> k, 1) for k in range(steps + 1)]
        finer_and_deeper = reversed(list(itertools.pairwise(channels)))
        self.join = nn.ModuleList(self._block(c + deeper, c) for c, deeper in finer_and_deeper)
        self.grow = nn.ModuleList(self._block(i, o) for i, o in itertools.pairwise(widths))
        self.image = (nn.Conv2d if self.flat else nn.Conv3d)(widths[-1], shape[0], 1)

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        if not self.flat:
            return conv(inputs, outputs, 3, nn.InstanceNorm3d)
        return ConvModule(inputs, outputs, 3, padding=1, norm_cfg={'type': 'BN'})

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """Reconstructs an image.

        Args:
            latents: Maps (B, C, H, W), finest scale first.

        Returns:
            (B, *shape).
        """
        x, *skips = reversed(latents)
        for block, skip in zip(self.join, skips, strict=True):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        for block, size in zip(self.grow, self.sizes, strict=True):
            x = block(F.interpolate(x, size))
        return self.image(x)


class VectorDecoder(nn.Sequential):
    """Reconstructs a vector (D,) or a sequence (T, D) from a latent map of one pixel.

    Args:
        channels: Channels of the latent maps, of which there is one.
        shape: Shape of the vector or sequence.
    """

    def __init__(self, channels: Sequence[int], shape: tuple[int, ...]) -> None:
        (c,), d = channels, math.prod(shape)
        super().__init__(nn.Linear(c, c), nn.BatchNorm1d(c), nn.ReLU(), nn.Linear(c, d))
        self.shape = shape

    def forward(self, latents: Sequence[Tensor]) -> Tensor:
        """Reconstructs a vector or sequence.

        Args:
            latents: One map (B, C, 1, 1).

        Returns:
            (B, *shape).
        """
        return super().forward(latents[0].flatten(1)).unflatten(1, self.shape)


class TrunkReconstruction(nn.Module):
    """Reconstructs every modality from the last map of the classification trunk.

    Args:
        task: Gives the modalities.
        channels: Channels C of the map.
    """

    def __init__(self, task: Task, channels: int) -> None:
        super().__init__()
        self.decoders = nn.ModuleDict(
            {
                m.name: (ImageDecoder if m.kind == 'image' else VectorDecoder)((channels,), m.shape)
                for m in task.modalities
            }
        )

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Returns modality name -> (B, *shape) from the one map (B, C, H, W)."""
        return {name: decode(maps) for name, decode in self.decoders.items()}


def draw_shown(tokens: Sequence[int], mask: Tensor, ratio: float) -> tuple[Tensor, ...]:
    """Draws the tokens that masked pretraining shows.

    Every sample shows the same number of tokens, at least one. A sample whose modalities have fewer
    tokens shows all of them.

    Args:
        tokens: Number of tokens of each of the M modalities.
        mask: (B, M) bool; no token of an excluded modality is shown.
        ratio: Share of all tokens, those of excluded modalities included, that is masked.

    Returns:
        For each modality (B, tokens) bool.
    """
    columns = [there[:, None].expand(-1, n) for there, n in zip(mask.T, tokens, strict=True)]
    allowed = torch.cat(columns, 1)
    # Excluded tokens get a number below all random ones, hence the last ranks.
    lots = torch.rand(allowed.shape, device=mask.device).masked_fill(~allowed, -1.0)
    rank = lots.argsort(1, descending=True).argsort(1)
    count = max(1, int((1 - ratio) * sum(tokens)))
    return (allowed & (rank < count)).split(list(tokens), 1)


class PyramidReconstruction(nn.Module):
    """Reconstructs every modality through the segmentation decoder with a last layer of its own.

    Args:
        task: Gives the modalities.
        deployed: The segmentation decoder whose layers are pretrained.
    """

    def __init__(self, task: Task, deployed: SegmentationDecoder) -> None:
        super().__init__()
        self.channels = {m.name: m.shape[0] for m in task.modalities}
        # A decoder whose "classes" are the channels of all inputs together.
        outputs = tuple(str(i) for i in range(sum(self.channels.values())))
        self.decoder = SegmentationDecoder(dataclasses.replace(task, classes=outputs))
        # Shared with the deployed decoder, so that pretraining reaches all layers but the last.
        self.decoder.pyramid = deployed.pyramid
        self.decoder.head.scale_heads = deployed.head.scale_heads

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Returns modality name -> (B, C, H, W) from the fused maps."""
        parts = self.decoder.logits(maps).split(list(self.channels.values()), 1)
        return dict(zip(self.channels, parts, strict=True))


class VolumeReconstruction(nn.Module):
    """Reconstructs every volume through the segmentation decoder with a last layer of its own.

    Args:
        task: Gives the modalities.
        deployed: The segmentation decoder whose layers are pretrained.
    """

    def __init__(self, task: Task, deployed: VolumeDecoder) -> None:
        super().__init__()
        self.channels = {m.name: m.shape[0] for m in task.modalities}
        self.deployed = deployed
        self.last = nn.Conv3d(fused_channels(task)[0], sum(self.channels.values()), 1)

    def forward(self, maps: Maps) -> dict[str, Tensor]:
        """Returns modality name -> (B, C, D, H, W) from the fused maps."""
        parts = self.last(self.deployed.levels(maps)[0]).split(list(self.channels.values()), 1)
        return dict(zip(self.channels, parts, strict=True))


class CascadeAutoencoder(nn.Module):
    """A cascade of residual auto-encoders (Tran et al., CVPR 2017).

        x_0 = h,  z_b = enc_b(x_{b-1}),  x_b = x_{b-1} + dec_b(z_b)

    The output is a perceptron of the last x. The codes z are the linear outputs of the encoders.
    All layers are 1x1 convolutions, so that every position is a vector of its own.

    Args:
        inputs: Channels of h.
        channels: C; the layers of an encoder have 2C, C and C/2 channels.
        blocks: Number of auto-encoders.
        outputs: Channels of the output; None for those of h.
    """

    def __init__(
        self, inputs: int, channels: int, blocks: int = 5, outputs: int | None = None
    ) -> None:
        super().__init__()
        widths = (2 * channels, channels, channels // 2)
        self.encoders = nn.ModuleList(
            nn.Sequential(*layers((inputs, *widths), nn.LeakyReLU)) for _ in range(blocks)
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(*layers((*widths[::-1], inputs), nn.ReLU)) for _ in range(blocks)
        )
        self.transition = nn.Sequential(*layers((inputs, inputs, outputs or inputs), nn.ReLU))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Applies the cascade.

        Args:
            x: h, (B, inputs, H, W).

        Returns:
            The output, (B, outputs, H, W), and all codes, (B, blocks C/2, H, W).
        """
        codes = []
        for encode, decode in zip(self.encoders, self.decoders, strict=True):
            codes.append(encode(x))
            x = x + decode(codes[-1])
        return self.transition(x), torch.cat(codes, 1)
