"""Tokens of images, sequences and vectors for one transformer over all modalities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.method import Modality, Task
from methods.common import backbones
from methods.common.sequences import positions, split_padding

STD = 0.02
"""Standard deviation of what is drawn, as in vision transformers."""

Tokens = tuple[Tensor, Tensor]
"""Tokens (B, N, D), and whether each is one, (B, N) bool: appended frames are none."""


def _all(x: Tensor) -> Tokens:
    """Returns tokens (B, N, D) all of which are some."""
    return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)


class VectorTokens(nn.Module):
    """Makes a vector one token.

    Args:
        modality: Gives the vector's length.
        channels: Channels D of a token.
    """

    def __init__(self, modality: Modality, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(modality.shape[0], channels)

    def forward(self, x: Tensor) -> Tokens:
        """Returns the tokens of vectors (B, F)."""
        return _all(self.project(x)[:, None])


class SequenceTokens(nn.Module):
    """Makes each frame of a sequence a token, with sinusoidal positions.

    Args:
        modality: Gives the number of features, and whether the last one marks padding.
        channels: Channels D of a token.
    """

    def __init__(self, modality: Modality, channels: int) -> None:
        super().__init__()
        self.padded = modality.padded
        self.project = nn.Linear(modality.shape[1] - modality.padded, channels)

    def forward(self, x: Tensor) -> Tokens:
        """Returns the tokens of sequences (B, T, F)."""
        frames, real = split_padding(x, self.padded)
        y = self.project(frames)
        return y + positions(real, y.shape[-1]).to(y.dtype), real


class PatchTokens(nn.Module):
    """Makes each patch of an image a token, with learned positions.

    Args:
        modality: Gives the image's shape.
        channels: Channels D of a token.
        patches: Number of patches along the shorter side; the last ones may reach over the edge.
    """

    def __init__(self, modality: Modality, channels: int, patches: int) -> None:
        super().__init__()
        colours, height, width = modality.shape
        side = -(-min(height, width) // patches)
        self.over = (0, -width % side, 0, -height % side)
        self.project = nn.Conv2d(colours, channels, side, side)
        count = (-(-height // side)) * (-(-width // side))
        self.places = nn.Parameter(STD * torch.randn(count, channels))

    def forward(self, x: Tensor) -> Tokens:
        """Returns the tokens of images (B, C, H, W)."""
        y = self.project(F.pad(x, self.over)).flatten(2).transpose(1, 2)
        return _all(y + self.places)


class ViTTokens(nn.Module):
    """Makes an image tokens as a vision transformer of timm does, without its class token.

    Args:
        model: The vision transformer; its blocks and what follows them are not used.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.patches, self.drop, self.norm = model.patch_embed, model.pos_drop, model.norm_pre
        places = model.pos_embed
        prefix = model.num_prefix_tokens
        if places is not None and prefix and not model.no_embed_class:
            places = nn.Parameter(places[:, prefix:].detach().clone(), places.requires_grad)
        self.places = places

    def forward(self, x: Tensor) -> Tokens:
        """Returns the tokens of images (B, C, H, W)."""
        y = self.patches(x)
        y = y.flatten(1, -2) if y.ndim == 4 else y
        return _all(self.norm(self.drop(y if self.places is None else y + self.places)))


class Attention(nn.Module):
    """Multi-head self-attention with the parts of timm's; `attend` computes it.

    Args:
        channels: Channels D of a token.
        heads: Number of heads, a divisor of D.
        dropout: Rate of dropout behind it.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm, self.k_norm, self.norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)


class Block(nn.Module):
    """A block of a vision transformer with the parts of timm's.

    Args:
        channels: Channels D of a token.
        heads: Number of attention heads.
        dropout: Rate of all dropout.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels, 1e-6), nn.LayerNorm(channels, 1e-6)
        self.attn = Attention(channels, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
            nn.Dropout(dropout),
        )
        self.ls1, self.ls2 = nn.Identity(), nn.Identity()
        self.drop_path1, self.drop_path2 = nn.Identity(), nn.Identity()


def attend(attention: Any, x: Tensor, keep: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Computes self-attention with further keys and values.

    Args:
        attention: `Attention` or that of timm.
        x: Normalised tokens (B, N, D).
        keep: (B, P + N) bool, the keys that are attended to; those of the prompts come first.
        keys: Prompts (B, P, D), which take the place of projected tokens; P may be 0.
        values: As `keys`.

    Returns:
        (B, N, D).
    """

    def heads(y: Tensor) -> Tensor:
        return y.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)

    q, k, v = (heads(y) for y in attention.qkv(x).chunk(3, 2))
    q, k = attention.q_norm(q), attention.k_norm(k)
    k, v = torch.cat([heads(keys).to(k), k], 2), torch.cat([heads(values).to(v), v], 2)
    rate = attention.attn_drop.p if hasattr(attention, 'attn_drop') and attention.training else 0.0
    y = F.scaled_dot_product_attention(q, k, v, keep[:, None, None], rate)
    return attention.proj_drop(attention.proj(attention.norm(y.transpose(1, 2).flatten(2))))


def transformed(block: Any, x: Tensor, keep: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Returns the output (B, N, D) of a `Block`, or of one of timm; the rest is as in `attend`."""
    y = attend(block.attn, block.norm1(x), keep, keys, values)
    x = x + block.drop_path1(block.ls1(y))
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))


class Body(NamedTuple):
    """A transformer over the tokens of all modalities, in parts.

    Attributes:
        embed: Modality -> the module that makes it tokens.
        start: (1, P, D), the tokens that stand first; the first one is classified.
        blocks: The blocks, for `transformed`.
        norm: What follows the last block.
    """

    embed: dict[str, nn.Module]
    start: nn.Parameter
    blocks: nn.ModuleList
    norm: nn.Module


def _embed(m: Modality, channels: int) -> nn.Module:
    """Returns what makes a vector or a sequence tokens."""
    return (VectorTokens if m.kind == 'vector' else SequenceTokens)(m, channels)


def own_body(task: Task, depth: int, heads: int, patches: int, dropout: float) -> Body:
    """Returns a transformer with drawn weights and tokens of 8 `width` channels.

    Args:
        task: Gives modalities and width.
        depth: Number of blocks.
        heads: Number of attention heads, a divisor of 8 times the width.
        patches: Number of patches along the shorter side of an image.
        dropout: Rate of all dropout.
    """
    channels = 8 * task.width
    embed = {
        m.name: PatchTokens(m, channels, patches) if m.kind == 'image' else _embed(m, channels)
        for m in task.modalities
    }
    blocks = nn.ModuleList(Block(channels, heads, dropout) for _ in range(depth))
    drawn([*embed.values(), blocks])
    start = nn.Parameter(STD * torch.randn(1, 1, channels))
    return Body(embed, start, blocks, nn.LayerNorm(channels, 1e-6))


def drawn(modules: list[nn.Module]) -> None:
    """Draws the weights of linear layers as vision transformers do; biases are 0."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=STD)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def vision_transformer(modality: Modality, task: Task, dropout: float) -> Any:
    """Returns the vision transformer of timm that the task names, for images of a modality.

    Raises:
        UserError: It is none, or another one than those with plain blocks, or does not fit.
    """
    name = task.backbone
    backbones.probe(name, modality)
    loading = backbones.weights(name, modality, task.pretrained) if task.pretrained else {}
    library = backbones.timm().models.vision_transformer
    model: Any = backbones.made(name, modality, **loading)
    plain = isinstance(model, library.VisionTransformer) and all(
        type(b) is library.Block and type(b.attn) is library.Attention and b.attn.gate is None
        for b in model.blocks
    )
    if not plain:
        raise UserError(
            f'missing_prompts: encoder={name}: expected a vision transformer with plain blocks, '
            f'such as vit_base_patch16_224, found {type(model).__name__}'
        )
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = dropout
    for block in model.blocks:
        block.attn.attn_drop.p = 0.0  # attention itself is not dropped in ViLT
    return model.requires_grad_(not task.frozen)


def timm_body(task: Task, dropout: float) -> Body:
    """Returns the task's vision transformer of timm; vectors and sequences get linear layers.

    Each modality of images has patches and positions of its own, which start as the model's; the
    blocks are those of the first one.

    Raises:
        UserError: As `vision_transformer`.
    """
    models = {
        m.name: vision_transformer(m, task, dropout) for m in task.modalities if m.kind == 'image'
    }
    model = next(iter(models.values()))
    channels = model.embed_dim
    embed = {
        m.name: ViTTokens(models[m.name]) if m.name in models else _embed(m, channels)
        for m in task.modalities
    }
    drawn([embed[m.name] for m in task.modalities if m.kind != 'image'])
    prefix = model.num_prefix_tokens
    image = next(m for m in task.modalities if m.kind == 'image')
    model.eval()  # the class token and its position without dropout
    with torch.no_grad():
        blank = model.patch_embed(torch.zeros(1, *image.shape))
        first = model.norm_pre(model._pos_embed(blank))[:, :prefix]
    model.train()
    start = nn.Parameter(first if prefix else STD * torch.randn(1, 1, channels))
    start.requires_grad_(not (prefix and task.frozen))
    return Body(embed, start, model.blocks, nn.Sequential(model.norm, model.fc_norm))
