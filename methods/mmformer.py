"""mmFormer: transformers within each modality and between modalities, at the coarsest scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from benchmark.errors import UserError, unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.options import Range
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.encoders import coarsest
from methods.common.initial import draw_by_inputs
from methods.common.losses import labels_of, log_odds, segmentation_loss, total
from methods.common.networks import Encoders, Maps, SegmentationDecoder, decoder, fused_channels
from methods.common.networks import masked as masked_scales
from methods.common.regions import bottleneck
from methods.common.resize import bilinear
from methods.common.unet3d import VolumeDecoder


class Block(nn.Module):
    """A transformer block: multi-head self-attention, then a perceptron.

    Each part reads normalised tokens and is added to its input.

    Args:
        channels: Channels D of a token.
        heads: Number of attention heads, a divisor of D.
        ratio: Hidden units of the perceptron, divided by D.
        dropout: Rate of all dropout in training.
    """

    def __init__(self, channels: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.queries_keys_values = nn.Linear(channels, 3 * channels, bias=False)
        # The released code applies dropout twice here.
        self.project = nn.Sequential(
            nn.Linear(channels, channels), nn.Dropout(dropout), nn.Dropout(dropout)
        )
        self.perceptron = nn.Sequential(
            nn.Linear(channels, ratio * channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(ratio * channels, channels),
            nn.Dropout(dropout),
        )

    def attend(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Returns for each token (B, N, D) a mixture of the tokens that keep (B, N) allows."""
        parts = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1))
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)
        allowed = None if keep is None else keep[:, None, None]
        rate = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(queries, keys, values, allowed, rate)
        return self.project(y.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Transforms tokens.

        Args:
            x: (B, N, D).
            keep: (B, N) bool, the tokens that others attend to; None for all.
        """
        x = x + self.attend(self.norms[0](x), keep)
        return x + self.perceptron(self.norms[1](x))


class Transformer(nn.ModuleList):
    """`depth` blocks with the arguments `shape`; learned positions are added before each one."""

    def __init__(self, depth: int, *shape: Any) -> None:
        super().__init__(Block(*shape) for _ in range(depth))

    def forward(self, x: Tensor, positions: Tensor, keep: Tensor | None = None) -> Tensor:
        """Transforms tokens (B, N, D) at positions (N, D); keep as in `Block.forward`."""
        for block in self:
            x = block(x + positions, keep)
        return x


def fusion_block(inputs: int, outputs: int, volumes: bool = False) -> nn.Sequential:
    """Returns three convolutions with kernels 1, 3, 1 that fuse concatenated modalities."""
    if volumes:
        return bottleneck(inputs, outputs, outputs, nn.InstanceNorm3d)
    sizes = ((inputs, 1), (outputs, 3), (outputs, 1))
    return nn.Sequential(
        *(ConvModule(i, outputs, k, padding=k // 2, norm_cfg={'type': 'BN'}) for i, k in sizes)
    )


@METHODS.register_module('mmformer')
class MMFormer(Method):
    """Multimodal medical transformer.

    Zhang et al., mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of
    Brain Tumor Segmentation, MICCAI 2022 (arXiv 2206.02425). Each modality has a convolutional
    encoder and an intra transformer over the tokens of its coarsest map. After masking, an inter
    transformer relates the tokens of all modalities; its output and the finer maps are fused and
    decoded. In training a decoder shared by the modalities also solves the task from the
    convolutional maps of each modality alone, whatever the mask, and the fused decoder is
    supervised at every scale. All terms have weight 1, each is the protocol's task loss; with
    loss=own it is the `segmentation_loss` of RFNet, as in the released code:

        L = L_fuse + sum_i L_sep,i + sum_scales L_deep

    With variant='paper' the tokens of missing modalities are zeros, to which the inter transformer
    adds their positions; the others attend to them. Neither the released code nor PASSION's
    re-implementation has a mask of keys.

    Adaptations of this project: the paper is about 3-D MRI, which network=unet3d trains. The 2-D
    form and the classification form (one scale, cross-entropy, no deep supervision) are this
    project's. They use the suite's encoders and decoders, batch instead of instance normalisation,
    and deep supervision on the maps of the feature pyramid. The classification encoders end at a
    stride of 4 or 8, the paper's at 16: there a token is a patch of 2x2 pixels, which a transposed
    convolution restores. If the data have gaps, L_sep,i covers the samples that have modality i.

    With equal weights and tokens the transformers equal the released ones. A whole step cannot be
    compared, even with network=unet3d: the released network has five scales of 8 to 128 channels
    and tokens of 512, this one four scales from `width` channels on and tokens of 8 `width`; its
    decoders align corners, here those of volumes alone; norm and leaky ReLU come before its
    convolutions, here after them; its encoders and decoders ask for padding by reflection.

    variant='official' follows the released code in four details. It reshapes the inter
    transformer's output so that M consecutive tokens, instead of the tokens of the M modalities at
    one position, form the vector there; L_deep leaves out the finest scale and aligns corners; and
    all convolutions but pretrained ones, and the last layers of classifiers, begin with
    N(0, 2 / fan_in). The other variants have the initial weights of the other methods (`kaiming` in
    `methods.common.resnet`; in `embed`, `spread` and `sides` PyTorch's default). variant='masked'
    is this project's: missing modalities are not keys of the inter transformer, so that no token
    attends to them; their own tokens attend to the present ones and are passed on.

    Args:
        task: What the data set requires.
        depth: Number of blocks of each transformer.
        heads: Number of attention heads, a divisor of 8 times the width.
        ratio: Hidden units of the perceptrons, divided by the channels of a token.
        dropout: Dropout rate in the transformers.
        variant: 'paper', 'masked' or 'official'.

    Raises:
        UserError: The variant is unknown, or `heads` does not divide the channels.
    """

    task_kinds = KINDS
    version = 2
    official_loss = 'own'
    supported_networks = ('pyramid', 'unet3d')
    ranges = {'ratio': Range(1), 'dropout': Range(0, 1, below=True)}
    search = {'dropout': Uniform(0, 0.5)}

    def __init__(
        self,
        task: Task,
        *,
        depth: int = 1,
        heads: int = 8,
        ratio: int = 8,
        dropout: float = 0.1,
        variant: Literal['paper', 'masked', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'masked', 'official'):
            raise unknown('variant of mmformer', variant, ('paper', 'masked', 'official'))
        width = 8 * task.width
        if heads < 1 or width % heads:
            raise UserError(f'mmformer:heads: expected a divisor of {width}, found {heads}')
        self.variant, self.dense = variant, task.kind == 'segmentation'
        self.map = coarsest(task)
        self.patch = patch = 1 if self.dense else min(2, *self.map)
        self.grid = tuple(-(-side // patch) for side in self.map)
        names, scales = task.names, fused_channels(task)
        count, tokens, volumes = len(names), math.prod(self.grid), task.volumes
        conv = nn.Conv3d if volumes else nn.Conv2d
        back = nn.ConvTranspose3d if volumes else nn.ConvTranspose2d
        shape = (depth, width, heads, ratio, dropout)
        self.encoders = Encoders(task)
        self.embed = nn.ModuleDict({n: conv(scales[-1], width, patch, patch) for n in names})
        self.positions = nn.ParameterDict({n: torch.zeros(tokens, width) for n in names})
        self.intra = nn.ModuleDict({n: Transformer(*shape) for n in names})
        self.inter = Transformer(*shape)
        self.spread = back(count * width, count * scales[-1], patch, patch)
        self.fusions = nn.ModuleList(fusion_block(count * c, c, volumes) for c in scales)
        self.decoder = decoder(task, channels=scales[-1])
        self.separate = decoder(task, channels=scales[-1])
        sides = scales[1:] if variant == 'official' else scales
        self.sides = nn.ModuleList(
            conv(c if volumes else 2 * task.width, len(task.classes), 1)
            for c in sides
            if self.dense
        )

    def init_weights(self) -> None:
        """Draws the initial weights of the official variant."""
        super().init_weights()
        if self.variant == 'official':
            draw_by_inputs(self)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns for each modality its maps, then the map of the intra transformer's tokens."""
        maps = self.encoders(inputs)
        return {name: (*maps[name], self.within(name, maps[name][-1])) for name in inputs}

    def within(self, name: str, x: Tensor) -> Tensor:
        """Returns the intra transformer's output.

        Args:
            name: The modality.
            x: Its coarsest map (B, C, H, W).

        Returns:
            (B, D, H', W') with one token per patch.
        """
        # Padded to whole patches.
        padding = [n for side in reversed(self.map) for n in (0, -side % self.patch)]
        tokens = self.embed[name](F.pad(x, padding)).flatten(2).transpose(1, 2)
        tokens = self.intra[name](tokens, self.positions[name])
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def between(self, maps: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Returns the inter transformer's output, (B, M D, H', W').

        Args:
            maps: The M modalities' intra outputs (B, D, H', W'), zero where missing.
            mask: (B, M) bool.
        """
        count = len(maps)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        positions = torch.cat([self.positions[name] for name in self.task.names])
        keep = mask.repeat_interleave(len(positions) // count, 1)
        tokens = self.inter(tokens, positions, keep if self.variant == 'masked' else None)
        if self.variant == 'official':
            joined = tokens.reshape(len(tokens), -1, count * tokens.shape[2])
        else:
            joined = tokens.unflatten(1, (count, -1)).transpose(1, 2).flatten(2)
        return joined.transpose(1, 2).unflatten(2, self.grid)

    def fuse(self, features: dict[str, Maps], mask: Tensor) -> Maps:
        """Returns the fused maps under a mask (B, M), finest scale first."""
        # The coarsest map itself is left out: its tokens, after both transformers, replace it.
        *scales, _, tokens = masked_scales(features, mask, self.task.names)
        joined = [torch.cat(maps, 1) for maps in scales]
        spread, inside = self.spread(self.between(tokens, mask)), [slice(n) for n in self.map]
        joined.append(spread[(..., *inside)])
        return tuple(fusion(x) for fusion, x in zip(self.fusions, joined, strict=True))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits; mask (B, M) bool."""
        return self.decoder(self.fuse(features, mask))

    def own_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Returns `segmentation_loss`; arguments as in `task_loss`."""
        return segmentation_loss(logits, target)

    def separate_loss(self, features: dict[str, Maps], batch: Batch) -> Tensor:
        """Returns the shared decoder's losses on each modality alone, summed.

        All modalities are decoded in one pass, stacked along the batch.
        """
        maps = zip(*(features[name][:-1] for name in self.task.names), strict=True)
        logits = self.separate(tuple(torch.cat(scale) for scale in maps))
        pairs = zip(logits.chunk(len(self.task.names)), batch.available.T, strict=True)
        return total(self.task_loss(z, labels_of(batch.target, there)) for z, there in pairs)

    def deep_loss(self, levels: Sequence[Tensor], target: Tensor) -> Tensor:
        """Sums the losses of levels; as in the released code, their probabilities are upsampled."""
        deep = zip(self.sides, levels[-len(self.sides) :], strict=True)
        official = self.variant == 'official'
        maps = (self.upsample(side(x).float().softmax(1), official) for side, x in deep)
        return total(self.task_loss(log_odds(p), target) for p in maps)

    def upsample(self, x: Tensor, corners: bool = False) -> Tensor:
        """Resizes (B, K, H, W) to the resolution of the images; `corners` aligns them."""
        return bilinear(x, self.task.modalities[0].shape[1:], corners)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_fuse, loss_sep and, in segmentation, loss_deep."""
        features = self.encode(batch.inputs)
        fused = self.fuse(features, batch.mask)
        losses = {'loss_sep': self.separate_loss(features, batch)}
        if isinstance(self.decoder, VolumeDecoder):
            levels = self.decoder.levels(fused)
        elif isinstance(self.decoder, SegmentationDecoder):
            levels = self.decoder.pyramid(fused)
        else:
            return {'loss_fuse': self.task_loss(self.decoder(fused), batch.target), **losses}
        # What the decoder's forward does, in two steps, because its levels are needed twice.
        logits = self.upsample(self.decoder.head(levels))
        losses['loss_fuse'] = self.task_loss(logits, batch.target)
        losses['loss_deep'] = self.deep_loss(levels, batch.target)
        return losses
