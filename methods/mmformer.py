"""mmFormer: transformers within and between the modalities at the coarsest scale."""

import torch
import torch.nn.functional as F  # noqa: N812
from mmcv.cnn import ConvModule
from torch import nn

from benchmark.errors import UserError, unknown
from benchmark.method import IGNORE, Method
from benchmark.registry import METHODS
from benchmark.search import Uniform
from methods.common.losses import segmentation_loss
from methods.common.networks import Encoders, decoder, fused_channels, fusion_grid, masked, stride


class Block(nn.Module):
    """Multi-head self-attention and perceptron, each on normalised input and added to it.

    Args:
        channels: Channels D of a token.
        heads: Number of attention heads, a divisor of D.
        ratio: Hidden units of the perceptron, as a multiple of D.
        dropout: Rate of all dropout in training.
    """

    def __init__(self, channels, heads, ratio, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))
        self.queries_keys_values = nn.Linear(channels, 3 * channels, bias=False)
        # The released code drops twice here.
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

    def attend(self, x, keep):
        """Returns (B, N, D), each token's mixture of the tokens that `keep` (B, N) allows."""
        parts = self.queries_keys_values(x).unflatten(2, (3, self.heads, -1))
        y = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4),
            attn_mask=None if keep is None else keep[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.project(y.transpose(1, 2).flatten(2))

    def forward(self, x, keep):
        """Transforms tokens (B, N, D); keep (B, N) bool are those attended to, None for all."""
        x = x + self.attend(self.norms[0](x), keep)
        return x + self.perceptron(self.norms[1](x))


class Transformer(nn.ModuleList):
    """Blocks in a row, the learned positions being added before each."""

    def __init__(self, depth, *args):
        super().__init__(Block(*args) for _ in range(depth))

    def forward(self, x, positions, keep=None):
        """Transforms tokens (B, N, D) at positions (N, D) that attend to keep (B, N) bool."""
        for block in self:
            x = block(x + positions, keep)
        return x


def coarsest(task):
    """Returns height and width of the encoders' coarsest map."""
    if task.kind == 'classification' and fusion_grid(task):
        return (fusion_grid(task),) * 2
    first, stages = task.modalities[0], 4 if task.kind == 'segmentation' else 2
    return tuple(-(-side // stride(first, stages)) for side in first.shape[1:])


def fusion_block(inputs, outputs):
    """Returns three convolutions with kernels 1, 3, 1 that fuse concatenated modalities."""
    sizes = ((inputs, 1), (outputs, 3), (outputs, 1))
    return nn.Sequential(
        *(ConvModule(i, outputs, k, padding=k // 2, norm_cfg={'type': 'BN'}) for i, k in sizes)
    )


@METHODS.register_module('mmformer')
class MMFormer(Method):
    """Multimodal medical transformer.

    Zhang et al., mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of
    Brain Tumor Segmentation, MICCAI 2022 (arXiv 2206.02425). Each modality has a convolutional
    encoder and a transformer over the tokens of its coarsest map (intra); after masking, one
    transformer relates the tokens of all modalities (inter), and its output, beside the finer
    maps, is fused and decoded. A decoder shared by the modalities must solve the task from each
    one's convolutional maps alone, whatever the mask, and the fused decoder is supervised at
    every scale. All terms count 1: L = L_fuse + sum_i L_sep,i + sum_scales L_deep, each
    `segmentation_loss`.

    Missing modalities are no keys of the inter transformer: nothing attends to them. Their own
    tokens, bare positions, still read from the present ones and are passed on.

    The paper is about 3-D MRI. The 2-D form and the classification form (one scale, cross-entropy,
    nothing deep to supervise) are this project's adaptations: the suite's encoders and decoders,
    batch instead of instance normalisation, deep supervision on the maps of the feature pyramid.
    Tokens have 8 `width` channels, the paper's 512 at the papers' width of 64. The classification
    encoders end at a stride of 4 or 8, the paper's at 16: there a token is a patch of 2x2 pixels,
    which a transposed convolution restores. Where data have real gaps, L_sep,i covers the samples
    that have modality i.

    variant='official' does as the released code where that changes numbers: missing tokens are
    zeros that are attended to like others, and the inter transformer's output is reshaped so that
    the M vectors at one position are consecutive tokens, not those of the M modalities there.

    Args:
        task: What the dataset asks.
        depth: Blocks of each transformer.
        heads: Attention heads; a divisor of 8 `width`.
        ratio: Hidden units of the perceptrons, as a multiple of their channels.
        dropout: Dropout in the transformers.
        variant: 'paper' or 'official'.

    Raises:
        UserError: An unknown variant, or heads that do not divide the channels.
    """

    search = {'dropout': Uniform(0, 0.5)}

    def __init__(self, task, *, depth=1, heads=8, ratio=8, dropout=0.1, variant='paper'):
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of mmformer', variant, ('paper', 'official'))
        width = 8 * task.width
        if heads < 1 or width % heads:
            raise UserError(f'mmformer:heads: expected a divisor of {width}, found {heads}')
        self.official, self.dense = variant == 'official', task.kind == 'segmentation'
        self.map = coarsest(task)
        patch = 1 if self.dense else min(2, *self.map)
        self.grid = tuple(-(-side // patch) for side in self.map)
        names, scales = task.names, fused_channels(task)
        count, tokens = len(names), self.grid[0] * self.grid[1]
        shape = (depth, width, heads, ratio, dropout)
        self.encoders = Encoders(task)
        self.embed = nn.ModuleDict({n: nn.Conv2d(scales[-1], width, patch, patch) for n in names})
        self.positions = nn.ParameterDict({n: torch.zeros(tokens, width) for n in names})
        self.intra = nn.ModuleDict({n: Transformer(*shape) for n in names})
        self.inter = Transformer(*shape)
        self.spread = nn.ConvTranspose2d(count * width, count * scales[-1], patch, patch)
        self.fusions = nn.ModuleList(fusion_block(count * c, c) for c in scales)
        self.decoder = decoder(task, channels=scales[-1])
        self.separate = decoder(task, channels=scales[-1])
        self.sides = nn.ModuleList(
            nn.Conv2d(2 * task.width, len(task.classes), 1) for _ in scales if self.dense
        )

    def encode(self, inputs):
        """Encodes {modality: (B, *shape)} into {modality: (*maps, map of the intra tokens)}."""
        maps = self.encoders(inputs)
        return {name: (*maps[name], self.within(name, maps[name][-1])) for name in inputs}

    def within(self, name, x):
        """Returns the intra transformer's output (B, D, H, W) of a modality's coarsest map."""
        embed = self.embed[name]
        below, right = (-side % embed.stride[0] for side in self.map)
        tokens = embed(F.pad(x, (0, right, 0, below))).flatten(2).transpose(1, 2)
        tokens = self.intra[name](tokens, self.positions[name])
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def between(self, maps, mask):
        """Returns the inter transformer's output, (B, M D, H, W).

        Args:
            maps: The M modalities' intra outputs (B, D, H, W), zero where missing.
            mask: (B, M) bool.
        """
        count = len(maps)
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        positions = torch.cat([self.positions[name] for name in self.task.names])
        keep = mask.repeat_interleave(len(positions) // count, 1)
        tokens = self.inter(tokens, positions, None if self.official else keep)
        if self.official:
            joined = tokens.reshape(len(tokens), -1, count * tokens.shape[2])
        else:
            joined = tokens.unflatten(1, (count, -1)).transpose(1, 2).flatten(2)
        return joined.transpose(1, 2).unflatten(2, self.grid)

    def fuse(self, features, mask):
        """Returns the fused maps under a mask (B, M), finest scale first."""
        *scales, _, tokens = masked(features, mask, self.task.names)
        joined = [torch.cat(maps, 1) for maps in scales]
        height, width = self.map
        joined.append(self.spread(self.between(tokens, mask))[..., :height, :width])
        return tuple(fusion(x) for fusion, x in zip(self.fusions, joined, strict=True))

    def decode(self, features, mask):
        """Returns the logits; mask (B, M) bool."""
        return self.decoder(self.fuse(features, mask))

    def criterion(self, logits, target):
        """Returns the loss of logits; targets that are IGNORE do not count."""
        if self.dense:
            return self.pixel_loss(logits.float().softmax(1), target)
        errors = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction='sum')
        return errors / (target != IGNORE).sum().clamp_min(1)

    def pixel_loss(self, probability, target):
        """Returns `segmentation_loss` of one prediction (B, K, H, W); IGNORE does not count."""
        everyone = torch.ones(1, len(target), dtype=torch.bool, device=target.device)
        return segmentation_loss(probability[None], target, everyone)[0]

    def separate_loss(self, features, batch):
        """Returns the shared decoder's losses on each modality alone, summed.

        One pass over the modalities, stacked along the batch.
        """
        maps = zip(*(features[name][:-1] for name in self.task.names), strict=True)
        logits = self.separate(tuple(torch.cat(scale) for scale in maps))
        total = 0
        for z, there in zip(logits.chunk(len(self.task.names)), batch.available.T, strict=True):
            there = there.view(-1, *[1] * (batch.target.dim() - 1))
            total = total + self.criterion(z, torch.where(there, batch.target, IGNORE))
        return total

    def deep_loss(self, levels, target):
        """Returns the losses of the pyramid's maps, summed; their probabilities are upsampled."""
        probabilities = (
            side(x).float().softmax(1) for side, x in zip(self.sides, levels, strict=True)
        )
        return sum(self.pixel_loss(self.upsample(p), target) for p in probabilities)

    def upsample(self, x):
        """Resizes (B, K, H, W) to the input's resolution."""
        return F.interpolate(x, self.decoder.size, mode='bilinear', align_corners=False)

    def loss(self, batch):
        """Returns loss_fuse, loss_sep and, in segmentation, loss_deep."""
        features = self.encode(batch.inputs)
        fused = self.fuse(features, batch.mask)
        losses = {'loss_sep': self.separate_loss(features, batch)}
        if not self.dense:
            return {'loss_fuse': self.criterion(self.decoder(fused), batch.target), **losses}
        # What the decoder does, in two steps: its pyramid is needed twice.
        levels = self.decoder.pyramid(fused)
        logits = self.upsample(self.decoder.head(levels))
        losses['loss_fuse'] = self.criterion(logits, batch.target)
        losses['loss_deep'] = self.deep_loss(levels, batch.target)
        return losses
