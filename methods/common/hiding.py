"""Which tokens of the modalities masked pre-training shows, and what it asks for in the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmark.method import Modality, Task
from methods.common.encoders import Maps, fused_channels, fusion_grid
from methods.common.resnet import stride
from methods.common.sequences import positions, real_elements

PATCH, PATCHES = 16, 6
"""Side of a patch in pixels, and how many of them the shorter side of a small image has."""
COARSE = 8
"""Cells on a side of what is rebuilt of an image whose maps are pooled before they are fused."""


def patch_side(modality: Modality) -> int:
    """Returns the side of the patches of an image: 16 pixels, less where it is small."""
    return min(PATCH, max(1, min(modality.shape[1:]) // PATCHES))


def tokens_of(modality: Modality) -> tuple[int, ...]:
    """Returns the grid of a modality's tokens: patches, frames, or the values of a vector."""
    if modality.kind != 'image':
        return modality.shape[:1]
    side = patch_side(modality)
    return -(-modality.shape[1] // side), -(-modality.shape[2] // side)


def real_tokens(modality: Modality, x: Tensor) -> Tensor:
    """Returns which tokens of inputs (B, *shape) are no padding, (B, N) bool."""
    count = math.prod(tokens_of(modality))
    if modality.kind == 'sequence':
        return real_elements(modality, x)[..., 0]
    return torch.ones(len(x), count, dtype=torch.bool, device=x.device)


def spread(modality: Modality, tokens: Tensor) -> Tensor:
    """Returns for every element of inputs (B, *shape) whether its token is chosen, as bool.

    Args:
        modality: The modality.
        tokens: (B, N) bool.
    """
    if modality.kind == 'vector':
        return tokens
    if modality.kind == 'sequence':
        return tokens[..., None].expand(-1, -1, modality.shape[1])
    side, (_, height, width) = patch_side(modality), modality.shape
    grid = tokens.unflatten(1, tokens_of(modality))
    pixels = grid.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width]
    return pixels[:, None].expand(-1, *modality.shape)


def draw_shown(real: Sequence[Tensor], share: float) -> list[Tensor]:
    """Draws which tokens are shown, as MultiMAE does.

    The shares of a sample's modalities are drawn from a symmetric Dirichlet distribution with
    alpha = 1. Modality m shows round(lambda_m share N) random tokens, but no more than it has,
    where N is the number of tokens of the sample; the modality with the largest lambda_m shows at
    least one.

    Args:
        real: For each of the M modalities (B, N_m) bool, the tokens that a sample has.
        share: Share of all tokens that is shown.

    Returns:
        For each modality (B, N_m) bool.
    """
    counts = torch.stack([there.sum(1) for there in real], 1)
    # Exponential variables, divided by their sum, are Dirichlet(1, .., 1).
    lots = torch.empty(counts.shape, device=counts.device).exponential_()
    lots = lots.masked_fill(counts == 0, 0.0)
    budget = share * counts.sum(1, keepdim=True)
    shown = (lots / lots.sum(1, keepdim=True).clamp_min(1e-12) * budget).round()
    columns = torch.arange(len(real), device=counts.device)
    largest = (lots.argmax(1, keepdim=True) == columns) & (counts > 0)
    shown = torch.where(largest, shown.clamp_min(1), shown)
    found = []
    for column, there in enumerate(real):
        order = torch.rand(there.shape, device=there.device).masked_fill(~there, -1.0)
        rank = order.argsort(1, descending=True).argsort(1)
        found.append(there & (rank < shown[:, column, None]))
    return found


def standardised(x: Tensor, there: Tensor) -> Tensor:
    """Returns values with mean 0 and variance 1 over a batch, and 0 where nothing is.

    Args:
        x: (B, *shape); may hold any value where nothing is.
        there: Which elements are, of the same shape, bool.
    """
    x, count = x.float().where(there, 0.0), there.sum().clamp_min(1)
    centred = (x - x.sum() / count).where(there, 0.0)
    return centred / ((centred**2).sum() / count + 1e-6).sqrt()


class Wanted(NamedTuple):
    """What is to be rebuilt of a modality: values and weights, both of the shape of the answer."""

    values: Tensor
    weights: Tensor

    def error(self, answer: Tensor) -> Tensor:
        """Returns the weighted mean of the squared errors, 0 where all weights are 0."""
        squares = self.weights * (answer.float() - self.values) ** 2
        return squares.sum() / self.weights.sum().clamp_min(1e-6)


class Rebuilding(nn.Module):
    """Rebuilds the inputs of one modality from the fused maps of all.

    A 1x1 convolution per scale, the sum of the scales at the finest size, ReLU, and a linear layer.
    An image is rebuilt by sub-pixels, each position of the map as many as its stride, as in SimMIM
    (Xie et al., CVPR 2022); where maps are pooled before fusion, as averages of at least 8x8 cells.
    A frame of a sequence is rebuilt from the fused vector and the encoding of its position.

    Args:
        modality: What is rebuilt.
        task: Gives kind and width.
        channels: Channels of the fused maps, finest first.
    """

    def __init__(self, modality: Modality, task: Task, channels: Sequence[int]) -> None:
        super().__init__()
        self.modality, hidden = modality, 2 * task.width
        self.lateral = nn.ModuleList(nn.Conv2d(c, hidden, 1) for c in channels)
        self.cells = 1
        outputs = modality.shape[-1] - modality.padded
        if modality.kind == 'image':
            grid = fusion_grid(task) if task.kind != 'segmentation' else None
            stages = 1 if task.kind == 'segmentation' else 2
            self.cells = stride(modality, stages) if grid is None else -(-COARSE // grid)
            outputs = modality.shape[0] * self.cells**2
        self.frames = nn.Linear(hidden, hidden) if modality.kind == 'sequence' else None
        self.out = nn.Linear(hidden, outputs)

    def forward(self, maps: Maps, real: Tensor) -> Tensor:
        """Returns the modality (B, C, H', W'), (B, T, D) or (B, D).

        Args:
            maps: The fused maps, finest first.
            real: (B, N), the tokens that are no padding.
        """
        size = maps[0].shape[2:]
        scales = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        y = torch.stack([F.interpolate(x, size) for x in scales]).sum(0).relu()
        if self.modality.kind == 'image':
            return F.pixel_shuffle(self.out(y.movedim(1, -1)).movedim(-1, 1), self.cells)
        y = y.mean((2, 3))
        if self.frames is None:
            return self.out(y)
        places = positions(real, y.shape[1]).to(y.dtype)
        return self.out(self.frames(y[:, None] + places).relu())

    def wanted(self, x: Tensor, there: Tensor, hidden: Tensor, size: Sequence[int]) -> Wanted:
        """Returns what is asked for: the hidden elements, standardised over the batch.

        Args:
            x: (B, *shape), the inputs.
            there: Which elements exist, of the same shape, bool.
            hidden: Which of them are not shown, of the same shape, bool.
            size: Height and width of the finest fused map.
        """
        values, weights = standardised(x, there), (there & hidden).float()
        if self.modality.padded:
            values, weights = values[..., :-1], weights[..., :-1]
        if self.modality.kind == 'image':
            cells = size[0] * self.cells, size[1] * self.cells
            values, weights = (F.adaptive_avg_pool2d(v, cells) for v in (values, weights))
        return Wanted(values, weights)


def fused(task: Task) -> tuple[int, ...]:
    """Returns the channels of the maps of `ConcatFusion`, finest first."""
    count = len(task.names) if task.kind != 'segmentation' else 1
    return tuple(count * channels for channels in fused_channels(task))
