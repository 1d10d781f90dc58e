"""ActionMAE: the tokens of missing modalities are rebuilt from those of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark.errors import UserError, unknown
from benchmark.method import KINDS, Batch, Method, Task
from benchmark.registry import METHODS
from benchmark.search import LogUniform
from methods.common.networks import ConcatFusion, Encoders, Maps, decoder, fused_channels, masked
from methods.common.sequences import positions

HEADS, SMALLEST = 8, 16
"""Attention heads of the paper, and the fewest channels that a head has here.

The paper's heads have 64 channels. Heads of a few channels would take most of the time.
"""


class Transformer(nn.Module):
    """Blocks of attention and perceptrons, each on normalised tokens, and a last normalisation.

    Args:
        channels: Channels D of a token.
        depth: Number of blocks.
    """

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        heads = math.gcd(HEADS, max(1, channels // SMALLEST))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                channels, heads, 4 * channels, 0.0, 'gelu', batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, places: Tensor | None, absent: Tensor | None = None) -> Tensor:
        """Transforms tokens.

        Args:
            x: (N, L, D).
            places: (L, D), added before each block; None for nothing.
            absent: (N, L) bool, the tokens that no other attends to; None for none.
        """
        # The fused kernels are made for few long sequences: here there are many short ones, more
        # than some kernels for GPUs can count.
        with sdpa_kernel(SDPBackend.MATH):
            for block in self.blocks:
                x = block(x if places is None else x + places, src_key_padding_mask=absent)
        return self.norm(x)


class TokenAutoencoder(nn.Module):
    """Rebuilds the tokens of missing modalities from present ones and memory tokens.

    The encoder sees memory tokens and the tokens that are present. In front of the decoder a mask
    token takes the place of each missing one.

    Args:
        count: Number of modalities M.
        channels: Channels C of a token.
        memory: Number of memory tokens.
        depth: Number of blocks of the encoder and of the decoder.
        official: Whether there are no positions, and present tokens are replaced as well.
    """

    places: Tensor

    def __init__(self, count: int, channels: int, memory: int, depth: int, official: bool) -> None:
        super().__init__()
        self.official = official
        self.memory = nn.Parameter(0.02 * torch.randn(memory, channels))
        self.mask = nn.Parameter(0.02 * torch.randn(channels))
        self.encoder, self.decoder = (Transformer(channels, depth) for _ in range(2))
        self.predict = nn.Linear(channels, channels)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        # Nothing is added to memory tokens; those of modalities have the positions 1 to M.
        real = torch.ones(1, count + 1, dtype=torch.bool)
        places = torch.cat([torch.zeros(memory, channels), positions(real, channels)[0, 1:]])
        self.register_buffer('places', places, persistent=False)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Completes tokens.

        Args:
            tokens: (N, M, C), finite where missing.
            mask: (N, M) bool.

        Returns:
            The tokens for the fusion and the decoder's, both (N, M, C).
        """
        count = len(self.memory)
        places = None if self.official else self.places
        x = torch.cat([self.memory.expand(len(tokens), -1, -1), tokens], 1)
        here = torch.cat([mask.new_ones(len(mask), count), mask], 1)
        seen = self.encoder(x, places, ~here)
        rebuilt = self.predict(
            self.decoder(torch.where(here[..., None], seen, self.mask), places)[:, count:]
        )
        if not self.official:
            return torch.where(mask[..., None], tokens, rebuilt), rebuilt
        if not self.training:
            order = (~mask).byte().argsort(dim=1, stable=True)
            rebuilt = rebuilt.gather(1, order[..., None].expand_as(rebuilt))
        whole = mask.all(1)[:, None, None]
        return torch.where(whole, seen[:, : mask.shape[1]], rebuilt), rebuilt


def normalised(tokens: Tensor) -> Tensor:
    """Returns tokens (.., C) with mean 0 and variance 1 over their channels, in float32."""
    variance, mean = torch.var_mean(tokens.float(), -1, keepdim=True)
    return (tokens.float() - mean) / (variance + 1e-6).sqrt()


@METHODS.register_module('actionmae')
class ActionMAE(Method):
    """Missing modality predictive coding.

    Woo, Lee, Park, Nugroho & Kim, Towards Good Practices for Missing Modality Robust Action
    Recognition, AAAI 2023 (arXiv 2211.13916). Each modality is a token z_m. The tokens of missing
    modalities, of which training drops some at random, are rebuilt from the others: a transformer
    encodes the tokens that are there together with learned memory tokens, a mask token takes the
    place of each missing one, and a second transformer predicts zhat_m there (`TokenAutoencoder`).
    The original and the rebuilt tokens are fused and decoded:

        L = L_task + reconstruction mean |zhat_m - zn_m|^2

    with zn_m the token normalised over its channels, and the mean over the channels of all tokens
    that were dropped. As in the released code, a dropped token also receives a gradient as a
    target.

    Adaptations of this project. The paper recognises actions in videos, and a token is the summary
    of all frames; here each position of the encoder's map, normalised over channels, is a token and
    positions are completed by themselves, so that all methods share one point of fusion. Vectors
    and sequences have one position, as in the paper. In segmentation the deepest maps alone are
    tokens; finer maps are zero where a modality is missing, as in modality dropout. The fusion is
    the suite's; the paper compares sums, concatenation and a transformer. The protocol's sampler
    drops modalities; the paper's draws their number first (sampler=by_size). If the data have gaps,
    what a sample lacks is rebuilt, too, but is no target. The paper's size of tokens is 512.

    variant='official' follows the released code in three points. It computes positions but never
    adds them, so that two missing modalities get the same rebuilt token. If something is missing,
    all tokens are replaced by the decoder's; if nothing is, the fusion gets the first M outputs of
    the encoder, where memory tokens stand first. At test, tokens that are present come first in the
    fusion, whichever modalities they are of, and rebuilt ones follow; in training all are in place.
    From the features of encoders on it then equals that code with its fusion by concatenation: in
    both losses and all gradients where each sample lacks one or two of three modalities, and in the
    logits of every subset at test (tests/methods/test_released_newest.py). The encoders of videos
    were left out. Layer normalisation adds 1e-5 to variances, as that code's class does by default;
    the builder of its models, which needs a file that was not released, asks for 1e-6.

    The paper's text was not available beyond its abstract and the caption of its figure 3, which
    says that original and rebuilt tokens are fused; the other formulas and the sizes are those of
    the released code and its script. Departures from it: label smoothing of 0.1 in the task loss,
    where the protocol's loss is used; it drops equally many modalities in all samples of a batch;
    in training it shuffles the tokens of complete samples before they are fused.

    Args:
        task: What the data set requires.
        reconstruction: Weight of the rebuilt tokens' error.
        memory: Number of memory tokens.
        depth: Number of blocks of the encoder and of the decoder of tokens.
        variant: 'paper' or 'official'.

    Raises:
        UserError: The variant is unknown, or there is no memory token or no block.
    """

    task_kinds = KINDS
    supported_networks = ('pyramid', 'unet3d')
    search = {'reconstruction': LogUniform(0.1, 10)}

    def __init__(
        self,
        task: Task,
        *,
        reconstruction: float = 1.0,
        memory: int = 4,
        depth: int = 2,
        variant: Literal['paper', 'official'] = 'paper',
    ) -> None:
        super().__init__(task)
        if variant not in ('paper', 'official'):
            raise unknown('variant of actionmae', variant, ('paper', 'official'))
        for name, value in (('memory', memory), ('depth', depth)):
            if value < 1:
                raise UserError(f'actionmae:{name}: expected at least 1, found {value}')
        self.reconstruction = reconstruction
        channels, names = fused_channels(task)[-1], task.names
        self.encoders = Encoders(task)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(channels) for name in names})
        self.autoencoder = TokenAutoencoder(
            len(names), channels, memory, depth, variant == 'official'
        )
        self.fusion = ConcatFusion(task)
        self.decoder = decoder(task)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Maps]:
        """Returns the maps of each modality."""
        return self.encoders(inputs)

    def tokens(self, maps: Sequence[Tensor]) -> Tensor:
        """Returns the tokens (B, H, W, M, C) of M maps (B, C, H, W), zero where missing."""
        pairs = zip(self.norms.values(), maps, strict=True)
        return torch.stack([norm(x.movedim(1, -1)) for norm, x in pairs], -2)

    def complete(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the tokens for the fusion and those of the autoencoder, both (B, H, W, M, C).

        Args:
            tokens: (B, H, W, M, C).
            mask: (B, M) bool, the modalities that may be used.
        """
        shape = tokens.shape[:-2]
        rows = mask.view(len(mask), *[1] * (len(shape) - 1), -1).expand(*shape, -1).flatten(0, -2)
        completed, rebuilt = self.autoencoder(tokens.flatten(0, -3), rows)
        return completed.unflatten(0, shape), rebuilt.unflatten(0, shape)

    def fuse(self, finer: Sequence[Sequence[Tensor]], tokens: Tensor) -> Tensor:
        """Returns the logits of completed tokens, none of which is missing any more.

        Args:
            finer: For each finer scale the maps of the M modalities, zero where missing.
            tokens: (B, H, W, M, C).
        """
        deepest = (x.movedim(-1, 1).contiguous() for x in tokens.unbind(-2))
        maps = dict(zip(self.task.names, zip(*finer, deepest, strict=True), strict=True))
        whole = torch.ones(len(tokens), len(maps), dtype=torch.bool, device=tokens.device)
        return self.decoder(self.fusion(maps, whole))

    def decode(self, features: dict[str, Maps], mask: Tensor) -> Tensor:
        """Returns the logits of present and rebuilt tokens; mask (B, M) bool."""
        *finer, deepest = masked(features, mask, self.task.names)
        return self.fuse(finer, self.complete(self.tokens(deepest), mask)[0])

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Returns loss_task and loss_reconstruction."""
        features, names = self.encode(batch.inputs), self.task.names
        finer = masked(features, batch.mask, names)[:-1]
        # Tokens that the mask drops are targets; the autoencoder's mask hides them as inputs.
        tokens = self.tokens(masked(features, batch.available, names)[-1])
        completed, rebuilt = self.complete(tokens, batch.mask)
        errors = (rebuilt.float() - normalised(tokens)).square().flatten(1, -3).mean((1, 3))
        dropped = batch.available & ~batch.mask
        error = torch.where(dropped, errors, 0.0).sum() / dropped.sum().clamp_min(1)
        return {
            'loss_task': self.task_loss(self.fuse(finer, completed), batch.target),
            'loss_reconstruction': self.reconstruction * error,
        }
